"""The values of an evaluation as pure functions of logits."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch

from hf_vbp.errors import ConfigurationError


def top_classes(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return the ids of the classes with the highest logits.

    Args:
        logits: ``(n, classes)``.
        k: How many; all classes where there are fewer.

    Returns:
        ``(n, min(k, classes))`` int64, the highest first.
    """
    if k == 1:
        return logits.argmax(dim=-1, keepdim=True)
    return logits.topk(min(k, logits.shape[-1]), dim=-1).indices


def kl_divergences(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return for each image the Kullback-Leibler divergence KL(reference || other) of the class probabilities.

    Args:
        reference: Logits of the reference model, ``(n, classes)``.
        logits: Logits of the other model, ``(n, classes)``.

    Returns:
        ``(n,)`` float64, in nats; never below 0.
    """
    log_p = reference.double().log_softmax(dim=-1)
    log_q = logits.double().log_softmax(dim=-1)
    # Where p underflows to 0 the difference may be infinite, but its term is 0.
    terms = torch.where(log_p.exp() > 0, log_p.exp() * (log_p - log_q), 0.0)
    return terms.sum(dim=-1).clamp_min(0.0)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Unlike the usual ``p +- 1.96 sqrt(p (1 - p) / n)`` it is within 0 and 1 and keeps its confidence near them.

    Args:
        successes: The number of successful trials.
        trials: The number of trials.
        confidence: The probability that such an interval contains the true share.

    Raises:
        ConfigurationError: There are no trials, or the counts or the confidence are out of range.
    """
    if trials < 1 or not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ConfigurationError(
            f"No interval for {successes} of {trials} at confidence {confidence}: give 0 <= successes <= trials, at "
            f"least one trial, and a confidence between 0 and 1."
        )
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # Rounding must not put the ends beyond 0, 1 or the share itself.
    return (
        0.0 if successes == 0 else min(share, center - half),
        1.0 if successes == trials else max(share, center + half),
    )


def paired_interval(before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the change of a share that was measured twice on the same images.

    The adjusted Wald interval of Agresti and Min (2005): half an image is added to each of the four combinations of
    correct and incorrect, so that an interval is never empty where no image changed.

    Args:
        before: Whether each image was correct before.
        after: Whether each image is correct now, in the same order.
        confidence: The probability that such an interval contains the true change.

    Raises:
        ConfigurationError: There are no images, or they differ in number, or the confidence is out of range.
    """
    if len(before) != len(after) or not before or not 0 < confidence < 1:
        raise ConfigurationError(
            f"No interval for {len(before)} images before and {len(after)} after at confidence {confidence}: give the "
            f"same images twice, at least one, and a confidence between 0 and 1."
        )
    lost = sum(was and not now for was, now in zip(before, after, strict=True)) + 0.5
    gained = sum(now and not was for was, now in zip(before, after, strict=True)) + 0.5
    count = len(before) + 2
    change = (gained - lost) / count
    error = math.sqrt(max(lost + gained - (gained - lost) ** 2 / count, 0.0)) / count
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return max(-1.0, change - half), min(1.0, change + half)
