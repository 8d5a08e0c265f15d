"""Activation variance: the criterion of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_criterion
@dataclass(frozen=True)
class Variance(Criterion):
    """Activation variance, over all sites at once (the paper, section 3.2).

    The score is the raw sample variance of the neuron after the activation function, with neither weights nor a
    normalization per layer: the expected squared error of replacing the neuron by its mean.
    """

    name = "variance"

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return the variances as scores."""
        return [Ranking.from_scores(site.moments.variance) for site in statistics]
