"""Structured magnitude, a baseline of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_criterion
@dataclass(frozen=True)
class Magnitude(Criterion):
    """Structured magnitude: the norm of all weights of the neuron (the paper's baseline).

    The score is ``sqrt(|fc1 row|^2 + fc1 bias^2 + |fc2 column|^2)``; no statistics are used.
    """

    name = "magnitude"

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return the norms as scores."""
        rankings = []
        for site_weights in weights:
            squared = site_weights.fc1_weight.square().sum(1) + site_weights.fc2_weight.square().sum(0)
            if site_weights.fc1_bias is not None:
                # A gated MLP has two biases per neuron.
                squared = squared + site_weights.fc1_bias.reshape(len(squared), -1).square().sum(1)
            rankings.append(Ranking.from_scores(squared.sqrt()))
        return rankings
