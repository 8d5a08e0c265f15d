"""What is measured in addition to the figures that follow from the kind of output."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.evaluation.task import Task
from hf_vbp.evaluation.task_metrics import TaskMetric, check_metrics
from hf_vbp.evaluation.zero_shot import ZeroShot, check_dual_encoder


@dataclass(frozen=True, eq=False)
class Measures:
    """What an evaluation measures in addition to the figures that follow from the kind of output.

    Args:
        bank: For backbones without a head: labelled images, among which the nearest neighbors of the labelled
            evaluation images are sought. Batches, as the evaluation images.
        neighbors: Number of neighbors that vote; by default 20, or all images of a smaller bank.
        zero_shot: For dual encoders: the class names of the labels, as prompts.
        metrics: Metrics of annotated images, each with a function from outputs to predictions.

    Raises:
        ConfigurationError: A value is not of these types, or neighbors are given without a bank.

    Example:
        >>> from hf_vbp.evaluation import Measures, TaskMetric
        >>> def segments(output, batch):
        ...     size = batch["labels"].shape[-2:]
        ...     return torch.nn.functional.interpolate(output.logits, size, mode="bilinear").argmax(1).tolist()
        >>> Measures(metrics=[TaskMetric("mean_iou", segments, options={"num_labels": 150})]).metrics[0].name
        'mean_iou'
    """

    bank: Iterable[Mapping[str, Any]] | None = None
    neighbors: int | None = None
    zero_shot: ZeroShot | None = None
    metrics: Sequence[TaskMetric] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.zero_shot is not None and not isinstance(self.zero_shot, ZeroShot):
            raise ConfigurationError(
                f"zero_shot is a {type(self.zero_shot).__name__}; expected ZeroShot(class_names, tokenizer)."
            )
        if isinstance(self.metrics, TaskMetric):
            object.__setattr__(self, "metrics", (self.metrics,))
        check_metrics(self.metrics)
        if self.neighbors is not None and self.neighbors < 1:
            raise ConfigurationError(f"neighbors is {self.neighbors}; expected 1 or more.")

    def check_model(self, model: nn.Module, task: Task | None, *, compared: bool) -> None:
        """Refuse a model for which something that was requested is not defined.

        Args:
            model: The model.
            task: What its output is; None where that is known after the first batch only.
            compared: Whether it is compared with another model.

        Raises:
            UnsupportedModelError: The kind of output is not known, or nothing could be measured.
            ConfigurationError: A bank or prompts are given for a model that has a head.
        """
        name = type(model).__name__
        if self.zero_shot is not None:
            check_dual_encoder(model)
        if task is None:
            return
        if self.bank is not None and task.labels != "features":
            raise ConfigurationError(
                f"A bank of labelled images was given, but {name} gives {task.kinds}: neighbors are sought for "
                "backbones that give one feature for each image."
            )
        if self.neighbors is not None and self.bank is None:
            raise ConfigurationError("neighbors needs a bank of labelled images: pass bank.")
        if task.distance is None and not self.metrics:
            raise UnsupportedModelError(
                f"{task.unknown} Or measure it by a metric: Measures(metrics=[TaskMetric(...)])."
            )
        alone = task.labels == "none" or (task.labels == "features" and self.bank is None and self.zero_shot is None)
        if not compared and alone and not self.metrics:
            others = "a bank of labelled images" if task.labels == "features" else "a metric of annotated images"
            raise UnsupportedModelError(
                f"{name} gives {task.kinds}, of which nothing can be measured without another model: give the dense "
                f"model to compare with (base), or {others}."
            )

    def uses_labels(self, task: Task) -> bool:
        """Return whether the labels of the batches are compared with the output directly."""
        if task.labels == "features":
            return self.bank is not None or self.zero_shot is not None
        return task.labels != "none"

    def check_labels(self, labels: Any, task: Task, images: int) -> None:
        """Refuse labels that nothing is done with, or that have another form than is needed.

        Args:
            labels: The labels of a batch.
            task: What the output is.
            images: Number of images in the batch.

        Raises:
            LabelError: Their form is another, or nothing compares the output with them.
            ConfigurationError: They need a bank or class names.
        """
        if task.labels == "features" and not self.uses_labels(task) and not self.metrics:
            raise ConfigurationError(
                f"The batches have labels, but {task.name} has no classes: pass labelled images as a bank of "
                "neighbors (Measures(bank=...)), for a dual encoder its class names "
                "(Measures(zero_shot=ZeroShot(...))), or batches without labels."
            )
        if task.labels == "none" and self.metrics:
            return
        if task.labels == "features" and not self.uses_labels(task):
            return
        task.check_labels(labels, images)
