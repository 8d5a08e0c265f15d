"""Moments of hidden neurons together with an output that they should give. Pure tensors in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class JointMoments:
    """Count, means and centered products of hidden neurons and outputs, which can be merged.

    Attributes:
        count: Number of tokens.
        mean: ``(hidden + out,)`` float64, the means of the hidden neurons, then of the outputs.
        comoment: ``(hidden + out, hidden + out)`` float64, the sum of products of deviations.
        hidden: Number of hidden neurons.
    """

    count: int
    mean: Tensor
    comoment: Tensor
    hidden: int

    @classmethod
    def of(cls, hidden: Tensor, output: Tensor) -> "JointMoments":
        """Return the moments of some tokens, by two passes in float64.

        Args:
            hidden: ``(tokens, hidden)``.
            output: ``(tokens, out)``.
        """
        rows = torch.cat([hidden.to("cpu", torch.float64), output.to("cpu", torch.float64)], 1)
        mean = rows.mean(0)
        centered = rows - mean
        return cls(len(rows), mean, centered.T @ centered, hidden.shape[1])

    def merge(self, other: "JointMoments") -> "JointMoments":
        """Return the moments of both sets, by the pairwise formula of Chan, Golub and LeVeque."""
        count = self.count + other.count
        delta = other.mean - self.mean
        between = self.count * other.count / count
        comoment = (self.comoment + other.comoment).addr_(delta, delta, alpha=between)
        return JointMoments(count, self.mean + delta * (other.count / count), comoment, self.hidden)

    def about(self, bias: Tensor | None, share: float = 1.0) -> "JointMoments":
        """Return the moments for least squares with a bias that is kept in part.

        With ``n`` tokens and the means ``m`` of hidden neurons and outputs, ``share n m m^T`` is added, where the
        bias is subtracted from the outputs.

        Args:
            bias: ``(out,)`` float64, or None for zeros.
            share: 0 where the bias is fitted, 1 where it is kept or there is none.
        """
        mean = self.mean.clone()
        if bias is not None:
            mean[self.hidden :] -= bias
        comoment = self.comoment.addr(mean, mean, alpha=share * self.count)
        return JointMoments(self.count, mean, comoment, self.hidden)
