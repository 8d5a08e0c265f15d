"""The statistics of one MLP site."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.elimination_curve import EliminationCurve
from hf_vbp.statistics.moments import Moments


@dataclass(frozen=True, eq=False)
class SiteStatistics:
    """Statistics of one MLP site, over every token of every image.

    Attributes:
        name: Name of the site, for messages and tables.
        index: Position of the site in the order of the blocks.
        moments: Moments of the hidden neurons, the inputs of ``fc2``.
        metric: ``G = E[g g^T]``, ``(out, out)`` float64, the mean over the tokens, with ``g`` the gradient of
            the log-likelihood of a label drawn from the model's own prediction with respect to the output of
            the site; ``None`` when it was not gathered.
        halves: Moments of the two halves of the pass; ``None`` when the pass was too short to have two. When
            co-moments of the halves were gathered, the first half holds them; those of the second are the total minus
            the first (:func:`hf_vbp.statistics.site_moments.full_halves`), so that two matrices are stored, not three.
        weighted: Moments with co-moments in which tokens are weighted half uniformly and half by the norm of their
            gradient, for least squares; ``None`` when they were not gathered.
        curve: Result of greedy elimination at this site (:func:`hf_vbp.precompute_scores`), or ``None``.
        saliency: ``(hidden,)`` float64, ``dL/dc`` for multipliers ``c`` on the hidden neurons, or ``None``.
    """

    name: str
    index: int
    moments: Moments
    metric: torch.Tensor | None = None
    halves: tuple[Moments, Moments] | None = None
    weighted: Moments | None = None
    curve: EliminationCurve | None = None
    saliency: torch.Tensor | None = None

    @property
    def provides(self) -> Requirements:
        """The statistics that this site has."""
        halves = self.halves is not None and self.halves[0].comoment is not None
        return Requirements(
            covariances=self.moments.comoment is not None,
            output_metric=self.metric is not None,
            token_weights=self.weighted is not None,
            halves=halves,
            saliency=self.saliency is not None,
        )

    def merge(self, other: SiteStatistics) -> SiteStatistics:
        """Return the statistics of both sets of images, without curve and saliency, which belong to one set only.

        Raises:
            StatisticsError: The two do not hold the same kinds of statistics.
        """
        metric = None
        if (self.metric is None) != (other.metric is None):
            raise StatisticsError(f"Only one of the two holds an output metric at site {self.name}.")
        if self.metric is not None and other.metric is not None:
            count = self.moments.count + other.moments.count
            shares = (self.moments.count / count, other.moments.count / count)
            metric = self.metric * shares[0] + other.metric * shares[1]
        # A part that is too short for halves is added to the total only, since it would unbalance the halves of the
        # other. The total minus the first half is then not the second half, so the co-moments of halves are dropped.
        mine, theirs = self.halves, other.halves
        if mine is None or theirs is None:
            one = theirs if mine is None else mine
            halves = None if one is None else _diagonals(one)
        else:
            if (mine[0].comoment is None) != (theirs[0].comoment is None):
                mine, theirs = _diagonals(mine), _diagonals(theirs)
            halves = (mine[0].merge(theirs[0]), mine[1].merge(theirs[1]))
        if (self.weighted is None) != (other.weighted is None):
            raise StatisticsError(f"Only one of the two holds weighted moments at site {self.name}.")
        weighted = None
        if self.weighted is not None and other.weighted is not None:
            weighted = self.weighted.merge(other.weighted)
        moments = self.moments.merge(other.moments)
        return replace(
            self, moments=moments, metric=metric, halves=halves, weighted=weighted, curve=None, saliency=None
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        metric = 0 if self.metric is None else self.metric.nbytes
        weighted = 0 if self.weighted is None else self.weighted.nbytes
        return self.moments.nbytes + metric + weighted + sum(half.nbytes for half in self.halves or ())


def _diagonals(halves: tuple[Moments, Moments]) -> tuple[Moments, Moments]:
    return halves[0].diagonal(), halves[1].diagonal()
