"""Mean, variance and covariance of hidden neurons: mergeable, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_vbp.errors import StatisticsError


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centered second moments of a set of tokens, which can be merged with those of other sets.

    Two sets A and B are merged by the pairwise formula of Chan, Golub and LeVeque (1979),

        delta = mean_B - mean_A,   mean = mean_A + delta * n_B / n,   M2 = M2_A + M2_B + delta^2 * n_A n_B / n,

    and for the co-moments by the outer product of ``delta`` in place of its square. With one token in B this is
    Welford's update, the paper's section 3.2. All terms are non-negative, so nothing cancels: after k merges the
    relative error of ``m2`` is below about ``k * 2**-52`` times the ratio of mean to standard deviation (at least 1),
    plus that of the parts. This is a first-order bound, and the error is much smaller in practice; it comes from the
    rounding of the means.

    Attributes:
        count: Number of tokens.
        mean: ``(hidden,)`` float64, on the CPU.
        m2: ``(hidden,)`` float64, the sum of squared deviations from ``mean``.
        comoment: ``(hidden, hidden)`` float64, the sum of products of deviations, its diagonal equal to ``m2``;
            ``None`` when only variances were gathered.
    """

    count: int
    mean: torch.Tensor
    m2: torch.Tensor
    comoment: torch.Tensor | None = None

    @classmethod
    def empty(cls, hidden: int, *, comoment: bool = False) -> Moments:
        """Return the moments of no tokens: the neutral element of :meth:`merge`."""
        zeros = torch.zeros(hidden, dtype=torch.float64)
        matrix = torch.zeros(hidden, hidden, dtype=torch.float64) if comoment else None
        return cls(0, zeros, zeros.clone(), matrix)

    @classmethod
    def of(cls, samples: torch.Tensor, *, comoment: bool = False) -> Moments:
        """Return the moments of samples held in memory, by two passes in float64.

        Args:
            samples: ``(..., hidden)``, any floating dtype and device.
            comoment: Also compute the ``(hidden, hidden)`` co-moments.
        """
        rows = samples.detach().reshape(-1, samples.shape[-1]).cpu().double()
        if not len(rows):
            return cls.empty(rows.shape[-1], comoment=comoment)
        centered = rows - rows.mean(0)
        # The mean of the deviations is not exactly 0 after rounding; subtracting it keeps constants at 0.
        rest = centered.mean(0)
        centered = centered - rest
        mean = rows.mean(0) + rest
        m2 = centered.square().sum(0)
        matrix = with_diagonal(centered.T @ centered, m2) if comoment else None
        return cls(len(rows), mean, m2, matrix)

    @property
    def hidden(self) -> int:
        """Number of hidden neurons."""
        return self.mean.shape[0]

    @property
    def variance(self) -> torch.Tensor:
        """The sample variance ``m2 / (count - 1)``, ``(hidden,)`` float64 (the paper's criterion).

        Raises:
            StatisticsError: Fewer than two tokens were seen.
        """
        return self.m2 / self._degrees_of_freedom()

    @property
    def covariance(self) -> torch.Tensor:
        """The sample covariance ``comoment / (count - 1)``, ``(hidden, hidden)`` float64.

        Raises:
            StatisticsError: Only variances were gathered, or fewer than two tokens were seen.
        """
        if self.comoment is None:
            raise StatisticsError(
                "These statistics hold variances only, but a covariance is needed. Gather them for a criterion or a "
                "compensation that requires covariances."
            )
        return self.comoment / self._degrees_of_freedom()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        tensors = (self.mean, self.m2, self.comoment)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def about_origin(self) -> Moments:
        """Return the moments about zero in place of the mean, for least squares without a bias."""
        mean = self.mean
        outer = None if self.comoment is None else self.comoment.addr(mean, mean, alpha=self.count)
        return Moments(self.count, torch.zeros_like(mean), self.m2 + self.count * mean.square(), outer)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of tokens together; the arguments are not changed.

        Raises:
            StatisticsError: The widths differ, or only one of the two has co-moments.
        """
        if self.hidden != other.hidden:
            raise StatisticsError(f"Moments of {self.hidden} neurons cannot be merged with those of {other.hidden}.")
        if (self.comoment is None) != (other.comoment is None):
            raise StatisticsError("Moments with co-moments cannot be merged with moments that hold variances only.")
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        delta = other.mean - self.mean
        # Scaled before the product, so that the matrix is exactly symmetric.
        scaled = delta * (self.count * other.count / count) ** 0.5
        m2 = self.m2 + other.m2 + scaled.square()
        comoment = None
        if self.comoment is not None and other.comoment is not None:
            comoment = with_diagonal((self.comoment + other.comoment).addr_(scaled, scaled), m2)
        return Moments(count, self.mean + delta * (other.count / count), m2, comoment)

    def diagonal(self) -> Moments:
        """Return the same moments without the co-moments."""
        return Moments(self.count, self.mean, self.m2)

    def _degrees_of_freedom(self) -> int:
        if self.count < 2:
            raise StatisticsError(f"A variance needs at least 2 tokens, but {self.count} were seen.")
        return self.count - 1


def with_diagonal(matrix: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    """Write ``diagonal`` ``(hidden,)`` into ``matrix`` ``(hidden, hidden)`` in place and return it.

    A sum of squares and a matrix product give variances that differ in their last bits; both attributes must hold the
    same number.
    """
    matrix.diagonal().copy_(diagonal)
    return matrix
