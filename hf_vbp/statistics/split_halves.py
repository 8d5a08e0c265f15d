"""Split-half agreement: the agreement between two halves of the images of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.activation_statistics import ActivationStatistics

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Overlap:
    """Agreement of the two halves on the kept neurons at one ratio.

    Attributes:
        ratio: Share of the hidden neurons that is removed, over all sites at once.
        kept: Share of the neurons kept by one half that the other keeps too.
        pruned: Share of the neurons pruned by one half that the other prunes too.
    """

    ratio: float
    kept: float
    pruned: float


@dataclass(frozen=True)
class HalvesAgreement:
    """Split-half agreement.

    A high agreement means that half of the images would have been sufficient.

    Attributes:
        tokens: Tokens of each half at the first site.
        rank_correlation: Spearman's correlation of the variances of all neurons.
        lowest_site: Name of the site whose variances agree least.
        lowest_site_rank_correlation: Spearman's correlation there.
        overlaps: One entry per ratio.
    """

    tokens: tuple[int, int]
    rank_correlation: float
    lowest_site: str
    lowest_site_rank_correlation: float
    overlaps: tuple[Overlap, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON; shares are between 0 and 1."""
        return {**asdict(self), "tokens": list(self.tokens), "overlaps": [asdict(item) for item in self.overlaps]}


def halves_agreement(statistics: ActivationStatistics, ratios: Sequence[float] = RATIOS) -> HalvesAgreement | None:
    """Compare the halves of a pass by the paper's criterion, the variance ranked over all sites.

    Args:
        statistics: Of one pass, or of several merged.
        ratios: Shares of the neurons to remove, between 0 and 1.

    Returns:
        The comparison, or ``None`` when the pass was too short to have two halves.

    Raises:
        ConfigurationError: A ratio is not between 0 and 1.
    """
    wrong = [ratio for ratio in ratios if not 0 < ratio < 1]
    if wrong:
        raise ConfigurationError(f"ratios must be between 0 and 1, got {wrong[0]}.")
    halves = [site.halves for site in statistics.sites if site.halves is not None]
    if len(halves) != len(statistics.sites):
        return None
    first = torch.cat([half[0].variance for half in halves])
    second = torch.cat([half[1].variance for half in halves])
    by_site = [rank_correlation(half[0].variance, half[1].variance) for half in halves]
    lowest = min(range(len(by_site)), key=by_site.__getitem__)
    return HalvesAgreement(
        tokens=(halves[0][0].count, halves[0][1].count),
        rank_correlation=rank_correlation(first, second),
        lowest_site=statistics.sites[lowest].name,
        lowest_site_rank_correlation=by_site[lowest],
        overlaps=tuple(_overlap(first, second, ratio) for ratio in ratios),
    )


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return Spearman's rank correlation of two ``(neurons,)`` tensors, equal values sharing their mean rank.

    Two constant tensors have correlation 1; a constant and another tensor have 0.
    """
    ranks = torch.stack([_mean_ranks(first), _mean_ranks(second)])
    centered = ranks - ranks.mean(1, keepdim=True)
    norms = centered.norm(dim=1)
    if not bool(norms.all()):
        return 1.0 if bool((norms == 0).all()) else 0.0
    return float((centered[0] @ centered[1]) / (norms[0] * norms[1]))


def _mean_ranks(values: torch.Tensor) -> torch.Tensor:
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: torch.Tensor = (last - (counts - 1) / 2)[group]
    return ranks


def _overlap(first: torch.Tensor, second: torch.Tensor, ratio: float) -> Overlap:
    neurons = len(first)
    pruned = min(neurons - 1, max(1, round(ratio * neurons)))
    both = [set(values.argsort(stable=True)[:pruned].tolist()) for values in (first, second)]
    common = len(both[0] & both[1])
    kept = neurons - 2 * pruned + common
    return Overlap(ratio, kept / (neurons - pruned), common / pruned)
