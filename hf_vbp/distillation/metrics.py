"""Accuracy from the logits that ``Trainer`` gathers; needs no download."""

from typing import Any

import numpy as np


def accuracy(prediction: Any) -> dict[str, float]:
    """Return top-1 and, where there are more than five classes, top-5.

    Args:
        prediction: ``transformers.EvalPrediction`` with logits ``(images, classes)`` and labels ``(images,)``.
    """
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    measured = {"top1": float((logits.argmax(axis=-1) == labels).mean())}
    if logits.shape[-1] > 5:
        best = np.argpartition(logits, -5, axis=-1)[:, -5:]
        measured["top5"] = float((best == labels[:, None]).any(axis=-1).mean())
    return measured
