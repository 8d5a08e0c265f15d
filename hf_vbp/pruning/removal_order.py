"""From the rankings of all sites to the neurons that stay. Pure tensors and numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hf_vbp.config.budget import Budget, smallest_cut
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import ConfigurationError

SCOPES = ("global", "layer")


@dataclass(frozen=True)
class Limits:
    """What no plan may go beyond.

    Attributes:
        minimum_width: Neurons that every site keeps. One by default: an MLP without neurons is a constant,
            and whoever wants that must say so with 0.
        round_to: Widths are multiples of this where the site allows it (8 or 32 suits most accelerators).
    """

    minimum_width: int = 1
    round_to: int = 1

    def __post_init__(self) -> None:
        if self.minimum_width < 0:
            raise ConfigurationError(f"minimum_width must not be negative, got {self.minimum_width}.")
        if self.round_to < 1:
            raise ConfigurationError(f"round_to must be at least 1, got {self.round_to}.")

    def floor(self, intermediate_size: int) -> int:
        """Return the least width that a site of this dense width may get."""
        return min(intermediate_size, self.minimum_width)

    def rounded(self, width: int, intermediate_size: int) -> int:
        """Return the allowed width nearest to ``width``, never above the dense one nor below the floor."""
        if self.round_to == 1 or width == intermediate_size:
            return width
        nearest = int(width / self.round_to + 0.5) * self.round_to
        lowest = -(-self.floor(intermediate_size) // self.round_to) * self.round_to
        return min(max(nearest, lowest), intermediate_size)


class RemovalOrder:
    """The order in which the neurons of a whole network go, and the widths that each cut of it leaves."""

    def __init__(self, rankings: Sequence[Ranking], *, scope: str = "global", limits: Limits | None = None) -> None:
        """Merge the rankings of all sites into one order.

        Args:
            rankings: One per site, in block order.
            scope: ``"global"`` ranks all neurons of the network at once (the paper, section 3.2);
                ``"layer"`` takes the same share of every site, so that equal sites stay equal.
            limits: Floor and rounding.

        Raises:
            ConfigurationError: The scope is unknown.
        """
        if scope not in SCOPES:
            raise ConfigurationError(f"Unknown scope {scope!r}; expected one of {', '.join(SCOPES)}.")
        self.limits = limits or Limits()
        self.dense_widths = [len(ranking.scores) for ranking in rankings]
        self._orders = [ranking.order() for ranking in rankings]
        self._site, self.cuts = self._merge(rankings, scope)

    def _merge(self, rankings: Sequence[Ranking], scope: str) -> tuple[torch.Tensor, list[int]]:
        keys, owners = [], []
        for index, (ranking, order) in enumerate(zip(rankings, self._orders, strict=True)):
            width = len(order)
            removable = width - self.limits.floor(width)
            position = torch.arange(1, width + 1, dtype=torch.float64) / max(width, 1)
            keys.append((position if scope == "layer" else ranking.scores[order])[:removable])
            owners.append(torch.full((removable,), index))
        key, owner = torch.cat(keys), torch.cat(owners)
        # Stable: equal scores go by site, then by the order within the site, on every machine alike.
        by_key = torch.argsort(key, stable=True)
        key, owner = key[by_key], owner[by_key]
        last_of_ties = torch.ones(len(key), dtype=torch.bool)
        if scope == "layer" and len(key) > 1:
            last_of_ties[:-1] = key[1:] != key[:-1]
        return owner, [0, *(torch.nonzero(last_of_ties).flatten() + 1).tolist()]

    def widths(self, cut: int) -> list[int]:
        """Return the width of every site after the first ``cut`` neurons of the order are gone."""
        removed = torch.bincount(self._site[:cut], minlength=len(self.dense_widths)).tolist()
        dense = self.dense_widths
        return [self.limits.rounded(full - gone, full) for full, gone in zip(dense, removed, strict=True)]

    def kept(self, cut: int) -> list[torch.Tensor]:
        """Return the ascending indices ``(width,)`` int64 of the neurons that each site keeps."""
        return [
            torch.sort(order[len(order) - width :]).values
            for order, width in zip(self._orders, self.widths(cut), strict=True)
        ]

    def cut_for(self, budget: Budget, cost: Callable[[Sequence[int]], float], *, ceiling: str | None = None) -> int:
        """Return the smallest cut that meets ``budget``, with ``cost`` from widths to the achieved fraction.

        Raises:
            BudgetError: No cut meets it.
        """
        return smallest_cut(self.cuts, lambda cut: cost(self.widths(cut)), budget, ceiling=ceiling)
