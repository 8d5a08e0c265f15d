"""Metrics of several labels per image, of segmentations and of depth maps, and the names of all metrics here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import datasets
import numpy as np

from hf_vbp.errors import LabelError
from hf_vbp.evaluation.metrics import (
    Agreement,
    KLDivergence,
    MeanLoss,
    PerImageMetric,
    Top1Accuracy,
    Top5Accuracy,
)

_DECISIONS = datasets.Sequence(datasets.Value("int64"))
_CLASS_MAP = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
_NUMBER_MAP = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))


class MultiLabelScores(PerImageMetric):
    """Accuracy and F1 of models with several labels per image, over all images and labels (micro).

    F1 is left out where no label holds and none was predicted.

    Example:
        >>> from hf_vbp.evaluation import MultiLabelScores
        >>> found = MultiLabelScores().compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
        >>> found["label_accuracy"], found["f1"]
        (0.75, 0.8)
    """

    _what = "Share of correct decisions and micro F1, of several labels per image."
    _inputs = "predictions: 0 or 1 for each label (n, labels); references: the same of the annotations."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _DECISIONS, "references": _DECISIONS}

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        found, known = np.asarray(predictions), np.asarray(references)
        hits = int((found & known).sum())
        marked = int(found.sum() + known.sum())
        scores = {"label_accuracy": float((found == known).mean())}
        return {**scores, **({"f1": 2 * hits / marked} if marked else {}), "images": len(found)}


class MeanIoU(PerImageMetric):
    """Mean intersection over union of segmentations, and the share of correct pixels.

    Intersections and unions are summed over all images; classes that occur neither in predictions nor in annotations
    do not count.

    Example:
        >>> from hf_vbp.evaluation import MeanIoU
        >>> found = MeanIoU().compute(predictions=[[[0, 1]]], references=[[[0, 0]]], num_labels=2)
        >>> found["mean_iou"], found["pixel_accuracy"]
        (0.25, 0.5)
    """

    _what = "Mean intersection over union over the classes, and the share of correct pixels."
    _inputs = "predictions: class of each pixel (n, height, width); references: the same of the annotations."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _CLASS_MAP, "references": _CLASS_MAP}

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Any], num_labels: int, ignore_index: int | None = None
    ) -> dict[str, Any]:
        both, found, known = (np.zeros(num_labels, dtype=np.int64) for _ in range(3))
        for predicted, annotated in zip(predictions, references, strict=True):
            p, r = np.asarray(predicted).ravel(), np.asarray(annotated).ravel()
            if p.shape != r.shape:
                raise LabelError(
                    f"A segmentation has {p.size} pixels and its annotation {r.size}: resize the prediction to the "
                    "size of the annotation."
                )
            counted = np.ones(r.shape, dtype=bool) if ignore_index is None else r != ignore_index
            p, r = p[counted], r[counted]
            for name, values in (("predicted", p), ("annotated", r)):
                if values.size and not 0 <= values.min() <= values.max() < num_labels:
                    raise LabelError(
                        f"A pixel is {name} as class {values.max() if values.max() >= num_labels else values.min()}, "
                        f"but num_labels is {num_labels}: correct num_labels, or name an ignore_index."
                    )
            both += np.bincount(p[p == r], minlength=num_labels)
            found += np.bincount(p, minlength=num_labels)
            known += np.bincount(r, minlength=num_labels)
        union = found + known - both
        if not union.any():
            raise LabelError("No pixel is annotated: give annotations with other classes than ignore_index.")
        present = union > 0
        return {
            "mean_iou": float((both[present] / union[present]).mean()),
            "pixel_accuracy": float(both.sum() / known.sum()),
            "images": len(predictions),
        }


class DepthError(PerImageMetric):
    """Absolute relative error and root mean square error of depth maps, the mean over the images.

    Pixels whose annotated depth is 0, negative or not finite are unknown and do not count.

    Example:
        >>> from hf_vbp.evaluation import DepthError
        >>> found = DepthError().compute(predictions=[[[1.0, 3.0]]], references=[[[2.0, 0.0]]])
        >>> found["absolute_relative_error"], found["rmse"]
        (0.5, 1.0)
    """

    _what = "Absolute relative error and root mean square error of depths, means over the images."
    _inputs = "predictions: depth of each pixel (n, height, width); references: the same of the annotations."
    _columns: ClassVar[dict[str, Any]] = {"predictions": _NUMBER_MAP, "references": _NUMBER_MAP}

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        relative, squared = [], []
        for predicted, annotated in zip(predictions, references, strict=True):
            p, r = (np.asarray(values, dtype=np.float64) for values in (predicted, annotated))
            if p.shape != r.shape:
                raise LabelError(
                    f"A depth map has the shape {p.shape} and its annotation {r.shape}: resize the prediction to the "
                    "size of the annotation."
                )
            known = np.isfinite(r) & (r > 0)
            if known.any():
                difference = (p - r)[known]
                relative.append(float(np.abs(difference / r[known]).mean()))
                squared.append(math.sqrt(float(np.square(difference).mean())))
        if not relative:
            raise LabelError("No pixel has a known depth: give annotations with depths above 0.")
        count = len(relative)
        means = {"absolute_relative_error": math.fsum(relative) / count, "rmse": math.fsum(squared) / count}
        return {**means, "images": count}


BUNDLED: Mapping[str, type[PerImageMetric]] = {
    "top1": Top1Accuracy,
    "top5": Top5Accuracy,
    "agreement": Agreement,
    "kl": KLDivergence,
    "loss": MeanLoss,
    "multi_label": MultiLabelScores,
    "mean_iou": MeanIoU,
    "depth_error": DepthError,
}
"""The metrics of this package by the names by which they can be requested."""
