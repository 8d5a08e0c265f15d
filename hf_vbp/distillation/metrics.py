"""The figures of an evaluation, from the logits that ``Trainer`` gathers; needs no download."""

from typing import Any

import numpy as np
import torch

from hf_vbp.evaluation.measures import top_classes
from hf_vbp.evaluation.metrics import MeanLoss, Top1Accuracy, Top5Accuracy


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the mean cross entropy, top-1 and, where there are more than five classes, top-5.

    The cross entropy replaces the loss that ``Trainer`` computes from the means of batches, which depends on how the
    images are cut into batches and shared among processes.

    Args:
        prediction: ``transformers.EvalPrediction`` with logits ``(images, classes)`` and labels ``(images,)``.
    """
    logits = torch.from_numpy(np.asarray(prediction.predictions))
    labels = torch.from_numpy(np.asarray(prediction.label_ids))
    losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    known = labels.tolist()
    measured = MeanLoss().compute(predictions=losses.tolist())
    measured |= Top1Accuracy().compute(predictions=top_classes(logits, 1)[:, 0].tolist(), references=known)
    if logits.shape[-1] > 5:
        measured |= Top5Accuracy().compute(predictions=top_classes(logits, 5).tolist(), references=known)
    return {name: measured[name] for name in ("loss", "top1", "top5") if name in measured}
