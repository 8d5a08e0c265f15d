"""What an evaluation measures, from the logits that ``Trainer`` gathers; needs no download."""

from typing import Any

import numpy as np


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the mean cross entropy, top-1 and, where there are more than five classes, top-5.

    The cross entropy takes the place of the loss that ``Trainer`` puts together from the means of batches, which
    depends on how the images are cut into batches and shared among processes.

    Args:
        prediction: ``transformers.EvalPrediction`` with logits ``(images, classes)`` and labels ``(images,)``.
    """
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    loss = -log_probabilities[np.arange(len(labels)), labels].mean()
    measured = {"loss": float(loss), "top1": float((logits.argmax(axis=-1) == labels).mean())}
    if logits.shape[-1] > 5:
        best = np.argpartition(logits, -5, axis=-1)[:, -5:]
        measured["top5"] = float((best == labels[:, None]).any(axis=-1).mean())
    return measured
