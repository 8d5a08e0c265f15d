"""The figures of an evaluation, from the logits that ``Trainer`` gathers; needs no download."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_vbp.distillation.tasks import IGNORED, ProblemType, hard_losses
from hf_vbp.errors import LabelError
from hf_vbp.evaluation.measures import top_classes
from hf_vbp.evaluation.metrics import MeanLoss, Top1Accuracy, Top5Accuracy

Metrics = Callable[[Any], dict[str, float]]


def metrics_for(problem: ProblemType) -> Metrics:
    """Return the ``compute_metrics`` of a problem type.

    The mean loss replaces the one that ``Trainer`` computes from the means of batches, which depends on how the images
    are cut into batches and shared among processes.
    """
    if problem == "single_label_classification":
        return accuracy
    return multi_label_loss if problem == "multi_label_classification" else squared_error


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the mean cross entropy, top-1 and, where there are more than five classes, top-5.

    Images with the label -100 are left out.

    Args:
        prediction: ``transformers.EvalPrediction`` with logits ``(images, classes)`` and labels ``(images,)``.

    Raises:
        LabelError: No label is known.
    """
    logits, labels = _read(prediction)
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    measured = _mean_loss(torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none"))
    known = labels.tolist()
    found = Top1Accuracy().compute(predictions=top_classes(logits, 1)[:, 0].tolist(), references=known)
    measured["top1"] = found["top1"]
    if logits.shape[-1] > 5:
        found = Top5Accuracy().compute(predictions=top_classes(logits, 5).tolist(), references=known)
        measured["top5"] = found["top5"]
    return measured


def multi_label_loss(prediction: Any) -> dict[str, float]:
    """Return the mean binary cross entropy; labels of -100 are left out.

    Args:
        prediction: ``transformers.EvalPrediction`` with logits and labels ``(images, labels)``.

    Raises:
        LabelError: No label is known.
    """
    return _over_labels(prediction, "multi_label_classification")


def squared_error(prediction: Any) -> dict[str, float]:
    """Return the mean squared error of a regression.

    Args:
        prediction: ``transformers.EvalPrediction`` with predictions and labels ``(images, outputs)``.
    """
    return _over_labels(prediction, "regression")


def _over_labels(prediction: Any, problem: ProblemType) -> dict[str, float]:
    logits, labels = _read(prediction)
    losses, counts = hard_losses(logits, labels.reshape(logits.shape).float(), problem)
    return _mean_loss((losses / counts)[counts > 0])


def _read(prediction: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.asarray(prediction.predictions)), torch.from_numpy(np.asarray(prediction.label_ids))


def _mean_loss(losses: Tensor) -> dict[str, float]:
    if not len(losses):
        raise LabelError(f"All labels of the evaluation images are {IGNORED}, which means unknown: give labels.")
    return {"loss": float(MeanLoss().compute(predictions=losses.tolist())["loss"])}
