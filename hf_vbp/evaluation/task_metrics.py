"""Metrics that the user names for outputs that are not classes: detections, segmentations, depths."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate

from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.evaluation.dense_metrics import BUNDLED

Predictions = Callable[[Any, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class TaskMetric:
    """A metric of the ``evaluate`` library, and how a model's outputs become its predictions.

    Args:
        metric: An object of ``evaluate`` (``evaluate.load("mean_iou")``, ``evaluate.combine(...)``, a subclass of
            ``evaluate.Metric``), or the name of a metric of this package: ``mean_iou``, ``depth_error``,
            ``multi_label``, ``top1``, ``top5``, ``loss``. Nothing is downloaded here.
        predictions: A function of the model's output and the batch. Returns one prediction for each image, or a dict
            of all arguments of ``metric.add_batch``.
        references: Key of the annotations in the batches, passed to the metric as ``references``; None where the
            metric has none. Not used where ``predictions`` returns a dict.
        options: Options of ``metric.compute``, as ``{"num_labels": 150, "ignore_index": 255}``.
        name: Name in the results; by default that of the metric.

    Raises:
        ConfigurationError: There is no such metric, or ``predictions`` is not a function.

    Example:
        >>> from hf_vbp.evaluation import TaskMetric
        >>> classes = lambda output, batch: output.logits.argmax(-1).tolist()
        >>> TaskMetric("top1", classes).name
        'top1'
    """

    metric: Any
    predictions: Predictions
    references: str | None = "labels"
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        metric = self.metric
        if isinstance(metric, str):
            if metric not in BUNDLED:
                raise ConfigurationError(
                    f"There is no metric {metric!r} in this package, which has {', '.join(sorted(BUNDLED))}: name one "
                    f"of them, or pass an object, as evaluate.load({metric!r})."
                )
            object.__setattr__(self, "name", self.name or metric)
            object.__setattr__(self, "metric", BUNDLED[metric]())
        elif not isinstance(metric, evaluate.EvaluationModule | evaluate.CombinedEvaluations):
            raise ConfigurationError(
                f"The metric is a {type(metric).__name__}; expected the name of a metric of this package, or an "
                "object of the evaluate library, as evaluate.load gives."
            )
        if not self.name:
            object.__setattr__(self, "name", str(getattr(metric, "name", None) or type(metric).__name__))
        if not callable(self.predictions):
            raise ConfigurationError(
                f"predictions is a {type(self.predictions).__name__}; expected a function of the model's output and "
                "the batch that returns one prediction for each image."
            )

    def start(self) -> "MetricRun":
        """Return a run of the metric for one model, with values of its own."""
        return MetricRun(self, copy.deepcopy(self.metric))


class MetricRun:
    """The values of a metric for one model.

    Args:
        task: The metric and how predictions are made.
        module: A copy of the metric that has no values yet.
    """

    def __init__(self, task: TaskMetric, module: Any) -> None:
        self._task, self._module = task, module

    def add(self, output: Any, batch: Mapping[str, Any]) -> None:
        """Add the images of one batch.

        Args:
            output: The output of the model.
            batch: The batch, with the annotations.

        Raises:
            DataError: The batch has no annotations under the name that was given.
        """
        found, key = self._task.predictions(output, batch), self._task.references
        if not isinstance(found, Mapping):
            found = {"predictions": found}
            if key is not None:
                if key not in batch:
                    raise DataError(
                        f"The metric {self._task.name} needs annotations as {key!r}, but a batch has "
                        f"{', '.join(map(str, batch))}: add them to the batches, or name another key with references."
                    )
                found = {**found, "references": batch[key]}
        self._module.add_batch(**found)

    def result(self) -> dict[str, float]:
        """Return the values of the metric that are single finite numbers."""
        values = self._module.compute(**self._task.options) or {}
        found = {str(name): _number(value) for name, value in values.items()}
        numbers = {name: value for name, value in found.items() if value is not None}
        if not numbers:
            raise ConfigurationError(
                f"The metric {self._task.name} gives {', '.join(map(str, values)) or 'nothing'}, of which nothing is "
                "a finite number: choose another metric, or check the annotations."
            )
        return numbers


def _number(value: Any) -> float | int | None:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def check_metrics(metrics: Sequence[Any]) -> None:
    """Refuse metrics that are not :class:`TaskMetric` objects, or that have the same name.

    Raises:
        ConfigurationError: One of them is something else, or a name occurs twice.
    """
    for metric in metrics:
        if not isinstance(metric, TaskMetric):
            raise ConfigurationError(
                f"metrics has a {type(metric).__name__}; expected hf_vbp.evaluation.TaskMetric objects, which name a "
                "metric and the function from outputs to predictions."
            )
    names = [metric.name for metric in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"Two metrics have the name {twice!r}: give each a name, TaskMetric(..., name=...).")
