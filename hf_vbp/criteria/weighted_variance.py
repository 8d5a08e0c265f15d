"""Variance times squared norm of the outgoing weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_criterion
@dataclass(frozen=True)
class WeightedVariance(Criterion):
    """Variance times squared norm of the neuron's ``fc2`` column (FLAP, AAAI 2024, without its z-score).

    It is the expected squared error of the site's output when this neuron alone is replaced by its mean.
    """

    name = "weighted-variance"

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return ``variance_j * |fc2 column j|^2`` as scores."""
        return [
            Ranking.from_scores(site.moments.variance * site_weights.fc2_weight.square().sum(0))
            for site, site_weights in zip(statistics, weights, strict=True)
        ]
