"""Criteria that need one formula: the paper's and those it is compared with."""

from collections.abc import Sequence

import torch

from hf_vbp.criteria.base import Ranking, SiteStatisticsLike, SiteWeights, register_criterion
from hf_vbp.errors import ConfigurationError


@register_criterion("variance")
def variance(statistics: Sequence[SiteStatisticsLike], weights: Sequence[SiteWeights]) -> list[Ranking]:
    """Activation variance, over all sites at once (the paper, section 3).

    The score is the raw sample variance of the neuron after the activation function, with neither weights nor
    a normalisation per layer: the expected squared error of replacing the neuron by its mean.
    """
    return [Ranking.from_scores(site.moments.variance) for site in statistics]


@register_criterion("weighted-variance")
def weighted_variance(statistics: Sequence[SiteStatisticsLike], weights: Sequence[SiteWeights]) -> list[Ranking]:
    """Variance times squared norm of the neuron's fc2 column (FLAP, AAAI 2024, without its z-score).

    It is the expected squared error of the site's output when this neuron alone is replaced by its mean.
    """
    return [
        Ranking.from_scores(site.moments.variance * site_weights.fc2_weight.square().sum(0))
        for site, site_weights in zip(statistics, weights, strict=True)
    ]


@register_criterion("magnitude")
def magnitude(statistics: Sequence[SiteStatisticsLike], weights: Sequence[SiteWeights]) -> list[Ranking]:
    """Structured magnitude: the norm of all weights that belong to the neuron (the paper's baseline).

    The score is ``sqrt(|fc1 row|^2 + fc1 bias^2 + |fc2 column|^2)``; no statistics enter.
    """
    rankings = []
    for site_weights in weights:
        squared = site_weights.fc1_weight.square().sum(1) + site_weights.fc2_weight.square().sum(0)
        if site_weights.fc1_bias is not None:
            squared = squared + site_weights.fc1_bias.square()
        rankings.append(Ranking.from_scores(squared.sqrt()))
    return rankings


@register_criterion("random")
def random(
    statistics: Sequence[SiteStatisticsLike], weights: Sequence[SiteWeights], *, seed: int = 0
) -> list[Ranking]:
    """Uniformly random scores from a seed: the floor that every criterion has to clear.

    Raises:
        ConfigurationError: ``seed`` is negative.
    """
    if seed < 0:
        raise ConfigurationError(f"seed must be 0 or more, not {seed}")
    generator = torch.Generator().manual_seed(seed)
    return [
        Ranking.from_scores(torch.rand(site_weights.hidden, generator=generator, dtype=torch.float64))
        for site_weights in weights
    ]
