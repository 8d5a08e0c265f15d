"""All figures of one model while batches are added."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, LabelError, NonFiniteError
from hf_vbp.evaluation.accumulators import ClassFigures, Features, LabelFigures, OutputFigures
from hf_vbp.evaluation.figures import Accuracy, Evaluation
from hf_vbp.evaluation.neighbors import check_classes, nearest_classes, number_of_neighbors
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import Task
from hf_vbp.evaluation.task_metrics import MetricRun
from hf_vbp.evaluation.zero_shot import nearest_prompts


class ModelFigures:
    """The figures of one model.

    Args:
        names: Name of the model, and of the reference that it is compared with.
        task: What its output is.
        measures: What is measured in addition.
        bank: Features of the bank of neighbors by this model; None without a bank.
        prompts: Directions of the class-name prompts; None without prompts.
    """

    def __init__(
        self, names: tuple[str, str], task: Task, measures: Measures, bank: Features | None, prompts: Tensor | None
    ) -> None:
        (self.name, self._reference), self.task, self._measures = names, task, measures
        self._bank, self._prompts = bank, prompts
        self._classes = ClassFigures()
        self._labels = LabelFigures(task.labels == "several")
        self._outputs: OutputFigures | None = None
        self._queries = Features()
        self._metrics: dict[str, MetricRun] = {metric.name: metric.start() for metric in measures.metrics}

    def add(
        self, output: Any, inputs: Mapping[str, Any], batch: Mapping[str, Any], reference: Any, images: int
    ) -> None:
        """Add the output for one batch, and that of the reference, None where there is none."""
        labels = batch.get("labels")
        if labels is not None:
            self._measures.check_labels(labels, self.task, images)
        if self.task.labels == "class":
            self._add_classes(output, labels, reference)
        elif reference is not None and self.task.distance is not None:
            self._outputs = self._outputs or OutputFigures(self.task.distance)
            self._outputs.add(reference, output, inputs, images)
        if labels is not None and self.task.labels in ("several", "numbers"):
            self._add_labels(output, inputs, labels)
        if labels is not None and self.task.labels == "features" and self._measures.uses_labels(self.task):
            self._add_features(output, inputs, labels)
        for run in self._metrics.values():
            run.add(output, batch)

    def accuracies(self) -> dict[str, Accuracy]:
        """Return the accuracies without a head."""
        found = {}
        if len(self._queries) and self._bank is not None:
            count = number_of_neighbors(self._measures.neighbors, len(self._bank))
            check_classes(self._bank.labels, self._queries.labels)
            chosen = nearest_classes(self._queries.features, self._bank.features, self._bank.labels, count)
            details = {"neighbors": count, "bank_images": len(self._bank)}
            found["knn"] = Accuracy(chosen == self._queries.labels, details)
        if len(self._queries) and self._prompts is not None and self._measures.zero_shot is not None:
            chosen = nearest_prompts(self._queries.features, self._prompts)
            described = {"classes": len(self._prompts), "templates": self._measures.zero_shot.templates}
            found["zero_shot"] = Accuracy(chosen == self._queries.labels, described)
        return found

    def result(self, images: int, hits: Mapping[str, Accuracy], before: Mapping[str, Accuracy]) -> Evaluation:
        """Return the figures that were measured."""
        found: dict[str, Any] = {"images": images}
        if self.task.labels == "class":
            found |= self._classes.result()
        elif self.task.labels in ("several", "numbers"):
            found |= self._labels.result(images)
        if self._outputs is not None:
            found |= self._outputs.result()
        for name, accuracy in hits.items():
            # Accuracies of some of the images would not compare with the other figures.
            if len(accuracy.hits) == images:
                found[name] = accuracy.to_dict(before.get(name))
        metrics = {name: run.result() for name, run in self._metrics.items()}
        return Evaluation(**found, metrics=metrics)

    def _add_classes(self, output: Any, labels: Any, reference: Any) -> None:
        logits = _finite(self.name, self.task.values(output, {}))
        expected = None if reference is None else _finite(self._reference, self.task.values(reference, {}))
        if labels is not None:
            _check_class_ids(labels, logits.shape[-1], self.name)
        if expected is not None and logits.shape != expected.shape:
            raise ConfigurationError(
                f"{self.name} has {logits.shape[-1]} classes and {self._reference} {expected.shape[-1]}: they cannot "
                "be compared."
            )
        self._classes.add(logits, None if labels is None else labels.cpu(), expected)

    def _add_labels(self, output: Any, inputs: Mapping[str, Any], labels: Tensor) -> None:
        values = self.task.values(output, inputs).cpu().double()
        if labels.numel() != values.numel():
            raise LabelError(
                f"The labels of a batch have the shape {tuple(labels.shape)}, but {self.name} gives "
                f"{tuple(values.shape)}: give one value for each output of an image."
            )
        self._labels.add(values, labels.cpu())

    def _add_features(self, output: Any, inputs: Mapping[str, Any], labels: Tensor) -> None:
        if int(labels.min()) < 0:
            raise LabelError(f"The label {int(labels.min())} is negative: number the classes from 0.")
        if self._prompts is not None and int(labels.max()) >= len(self._prompts):
            raise LabelError(
                f"The label {int(labels.max())} is beyond the {len(self._prompts)} class names of zero_shot: name "
                "every class, in the order of the labels."
            )
        self._queries.add(self.task.values(output, inputs), labels)


def _finite(name: str, logits: Tensor) -> Tensor:
    """Return logits ``(images, classes)`` in float64 on the CPU, or refuse them."""
    logits = logits.cpu().double()
    if not bool(torch.isfinite(logits).all()):
        raise NonFiniteError(f"{name} gives logits that are NaN or infinite: its weights or images are damaged.")
    return logits


def _check_class_ids(labels: Tensor, classes: int, name: str) -> None:
    for label in (int(labels.max()), int(labels.min())):
        if not 0 <= label < classes:
            raise LabelError(
                f"The label {label} is beyond the {classes} classes of {name}: pass id2label to load_images, so that "
                f"the classes of the data are matched with those of the model."
            )
