"""Distances of probabilities: one class of several, or each label for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hf_vbp.output_distance.formula import Formula


@dataclass(frozen=True)
class Categorical(Formula):
    """Logits of classes that exclude each other: KL(dense || pruned) of the softmax.

    ``H = diag(p) - p p^T`` for probabilities ``p``; ``v = sqrt(p) e - p (sqrt(p) . e)`` for standard normal ``e``.

    Args:
        component_dim: The dimension of the classes.
    """

    component_dim: int = -1
    figure: ClassVar[str] = "kl"
    open_below: ClassVar[bool] = True

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        return softmax_cotangent(values, noise)

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        same = dense.argmax(-1) == pruned.argmax(-1)
        return {"kl": softmax_kl(dense, pruned), "agreement": same.to(dense.dtype)}


@dataclass(frozen=True)
class Binary(Formula):
    """Logits of labels that each hold or not: KL(dense || pruned) of the sigmoid.

    ``H = diag(p (1 - p))``; ``v = sqrt(p (1 - p)) e``.

    Args:
        component_dim: The dimension of the labels, over which the divergences are added; None to average over all
            values, as of masks.
    """

    component_dim: int | None = -1
    figure: ClassVar[str] = "binary_kl"
    open_below: ClassVar[bool] = True

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        # Both factors, since 1 - p cancels for large logits.
        return (values.sigmoid() * (-values).sigmoid()).sqrt() * noise

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        p = dense.sigmoid()
        # Where p underflows to 0 the difference may be infinite, but its term is 0.
        linear = torch.where(p > 0, p * (torch.where(p > 0, dense, 0.0) - pruned), 0.0)
        kl = not_below_zero(linear + softplus(pruned) - softplus(dense))
        same = ((dense > 0) == (pruned > 0)).to(dense.dtype)
        return {"binary_kl": kl.sum(-1), "agreement": same.mean(-1)}


def softmax_cotangent(logits: Tensor, noise: Tensor) -> Tensor:
    """Return ``v`` with ``E[v v^T] = diag(p) - p p^T`` for ``p = softmax(logits)``.

    Args:
        logits: ``(..., classes)``.
        noise: Standard normal, the same shape.
    """
    p = logits.softmax(-1)
    scaled = p.sqrt() * noise
    return scaled - p * scaled.sum(-1, keepdim=True)


def softmax_kl(dense: Tensor, pruned: Tensor) -> Tensor:
    """Return KL(dense || pruned) of two softmax distributions, in nats and not below 0.

    Args:
        dense: Logits ``(..., classes)``.
        pruned: Logits, the same shape.

    Returns:
        ``(...)``
    """
    log_p, log_q = dense.log_softmax(-1), pruned.log_softmax(-1)
    p = log_p.exp()
    # Where p underflows to 0 the difference may be infinite, but its term is 0.
    terms = torch.where(p > 0, p * (torch.where(p > 0, log_p, 0.0) - torch.where(p > 0, log_q, 0.0)), 0.0)
    return not_below_zero(terms.sum(-1))


def not_below_zero(values: Tensor) -> Tensor:
    """Return values without the rounding below 0, and with their gradient everywhere.

    Args:
        values: Any shape.
    """
    return values - values.detach().clamp_max(0.0)
