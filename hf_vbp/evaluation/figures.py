"""The figures of one model: means over the images with their uncertainty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_vbp.evaluation.measures import paired_interval, wilson_interval

SHARES = frozenset({"agreement", "neighbor_agreement", "zero_shot_agreement"})
"""Figures that are a share of each image."""
_Z = 1.959963984540054


@dataclass(frozen=True)
class Figure:
    """Mean of a figure over the images.

    Attributes:
        mean: The mean.
        standard_error: Standard error of the mean; None for a single image.
        interval: 95 % interval: Wilson's where each image has 0 or 1, else the mean and 1.96 standard errors, cut at
            the ends of the figure's range. None for a single image.
    """

    mean: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Tensor, *, share: bool = False) -> "Figure":
        """Return the mean of a figure that is never negative.

        Args:
            values: The figure of each image, ``(images,)``.
            share: Whether the figure is at most 1.
        """
        values = values.double()
        count, mean = len(values), math.fsum(values.tolist()) / len(values)
        if count < 2:
            return cls(mean)
        error = float(values.std()) / math.sqrt(count)
        if share and bool(((values == 0) | (values == 1)).all()):
            return cls(mean, error, wilson_interval(int(values.sum()), count))
        highest = 1.0 if share else math.inf
        return cls(mean, error, (max(0.0, mean - _Z * error), min(highest, mean + _Z * error)))

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as in ``vbp_results.json``."""
        found = {
            "mean": self.mean,
            "standard_error": self.standard_error,
            "interval": _listed(self.interval),
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Accuracy:
    """Share of correct images by other means than a classification head.

    Attributes:
        hits: Whether each image is correct, ``(images,)`` bool.
        details: How it was measured, for the results.
    """

    hits: Tensor
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def top1(self) -> float:
        """The share of correct images."""
        return int(self.hits.sum()) / len(self.hits)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % Wilson interval."""
        return wilson_interval(int(self.hits.sum()), len(self.hits))

    def to_dict(self, before: "Accuracy | None" = None) -> dict[str, Any]:
        """Return the figures as in ``vbp_results.json``.

        Args:
            before: The accuracy of the reference model on the same images, for the change with its paired interval.
        """
        found = {"top1": self.top1, "interval": list(self.interval), **self.details}
        if before is not None:
            found["change"] = self.top1 - before.top1
            found["change_interval"] = list(paired_interval(before.hits.tolist(), self.hits.tolist()))
        return found


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model. A figure that could not be measured is None, or has no entry.

    Attributes:
        images: The number of images.
        top1: Share whose label has the highest logit.
        top1_interval: Its 95 % Wilson interval.
        top5: Share whose label is among the 5 highest logits (all, where there are fewer classes).
        ece: Expected calibration error of the class probabilities.
        classes: For each class id its number of images and their top-1.
        agreement: Share with the same highest logit as the reference model.
        kl: Mean of KL(reference || model) over the images, in nats.
        agreement_interval: Its 95 % Wilson interval.
        kl_interval: 95 % interval of the mean; None for a single image.
        label_accuracy: Of several labels per image: share of correct decisions at a probability of 0.5.
        f1: Of several labels per image: F1 over all images and labels (micro).
        label_squared_error: Of a regression: squared error against the labels, summed over the numbers of an image.
        outputs: For each tensor of any other output its kind and its :class:`Figure` objects against the reference.
        output_distance: Their output distance from the reference, added over the tensors (docs/output_distance.md).
        knn: Accuracy of k nearest neighbors, as in the results.
        zero_shot: Accuracy by class-name prompts, as in the results.
        metrics: Values of the metrics of the user, by their names.
    """

    images: int
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    top5: float | None = None
    agreement: float | None = None
    kl: float | None = None
    agreement_interval: tuple[float, float] | None = None
    kl_interval: tuple[float, float] | None = None
    ece: float | None = None
    classes: Mapping[str, Mapping[str, Any]] | None = None
    label_accuracy: float | None = None
    f1: float | None = None
    label_squared_error: Figure | None = None
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    output_distance: Figure | None = None
    knn: Mapping[str, Any] | None = None
    zero_shot: Mapping[str, Any] | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that were measured, as in ``vbp_results.json``."""
        figures = {
            "images": self.images,
            "top1": self.top1,
            "top1_interval": _listed(self.top1_interval),
            "top5": self.top5,
            "ece": self.ece,
            "classes": None if self.classes is None else {name: dict(row) for name, row in self.classes.items()},
            "agreement": self.agreement,
            "agreement_interval": _listed(self.agreement_interval),
            "kl": self.kl,
            "kl_interval": _listed(self.kl_interval),
            "label_accuracy": self.label_accuracy,
            "f1": self.f1,
            "label_squared_error": None if self.label_squared_error is None else self.label_squared_error.to_dict(),
            "outputs": {name: _described(part) for name, part in self.outputs.items()} or None,
            "output_distance": None if self.output_distance is None else self.output_distance.to_dict(),
            "knn": None if self.knn is None else dict(self.knn),
            "zero_shot": None if self.zero_shot is None else dict(self.zero_shot),
            "metrics": {name: dict(values) for name, values in self.metrics.items()} or None,
        }
        return {name: value for name, value in figures.items() if value is not None}


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _described(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to_dict() if isinstance(value, Figure) else value for name, value in part.items()}


def figures_of(values: Mapping[str, Sequence[Tensor]]) -> dict[str, Figure]:
    """Return the mean of each figure.

    Args:
        values: For each figure its values of the images, in pieces.
    """
    return {name: Figure.of(torch.cat(list(pieces)), share=name in SHARES) for name, pieces in values.items()}
