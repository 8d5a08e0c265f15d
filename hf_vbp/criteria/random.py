"""Random scores, the lower bound for every criterion."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_vbp._progress import shown
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion
from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.site_statistics import SiteStatistics


@register_criterion
@dataclass(frozen=True)
class Random(Criterion):
    """Uniformly random scores from a seed: the lower bound for every criterion.

    Attributes:
        seed: Seed of the scores, from 0 to 2^63 - 1.

    Raises:
        ConfigurationError: ``seed`` is outside this range or not a whole number.
    """

    name = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ConfigurationError(
                f"seed of criterion 'random' must be a whole number from 0 to 2^63 - 1, got {shown(self.seed)}."
            )

    def rank(self, statistics: Sequence[SiteStatistics], weights: Sequence[SiteWeights]) -> list[Ranking]:
        """Return random scores."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            Ranking.from_scores(torch.rand(site_weights.hidden, generator=generator, dtype=torch.float64))
            for site_weights in weights
        ]
