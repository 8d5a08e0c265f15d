"""A criterion and a compensation of a user, registered when this file is imported or run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_vbp import Compensation, Criterion, register_compensation, register_criterion
from hf_vbp.compensation.base import Compensated
from hf_vbp.config.requirements import Requirements
from hf_vbp.criteria.base import Ranking


@register_criterion
@dataclass(frozen=True)
class Unpredictable(Criterion):
    """Variance of a neuron that the other neurons of its site do not predict, to a power."""

    name = "unpredictable"
    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise ValueError(f"power must be above 0, got {self.power}")

    @property
    def requires(self) -> Requirements:
        return Requirements(covariances=True)

    def rank(self, statistics: Sequence, weights: Sequence) -> list[Ranking]:
        rankings = []
        for site in statistics:
            covariance = site.moments.covariance.clone()
            covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
            rankings.append(Ranking.from_scores((1 / torch.linalg.inv(covariance).diagonal()) ** self.power))
        return rankings


@register_compensation
@dataclass(frozen=True)
class HalfShift(Compensation):
    """A share of the mean shift."""

    name = "half-shift"
    share: float = 0.5

    @property
    def requires(self) -> Requirements:
        return Requirements(bias=True)

    def fit(self, weights: object, kept: torch.Tensor, site: object) -> Compensated:
        pruned = torch.ones(weights.hidden, dtype=torch.bool)
        pruned[kept] = False
        shift = weights.fc2_weight[:, pruned] @ site.moments.mean[pruned]
        return Compensated(weights.fc2_weight[:, kept], weights.fc2_bias + self.share * shift)
