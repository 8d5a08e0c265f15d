"""Choose the kept neurons from the rankings of all sites. Pure tensors and numbers."""

from collections.abc import Callable, Sequence

import torch

from hf_vbp.config.budget import Budget
from hf_vbp.config.limits import SCOPES, Limits
from hf_vbp.config.registry import check_choice
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.base import Ranking


class RemovalOrder:
    """The order in which the neurons of a whole network are removed, and the widths after each cut of it."""

    def __init__(
        self,
        rankings: Sequence[Ranking],
        *,
        scope: str = "global",
        limits: Limits | None = None,
        removes: bool = True,
    ) -> None:
        """Merge the rankings of all sites into one order.

        Args:
            rankings: One per site, in block order.
            scope: ``"global"`` ranks all neurons of the network at once (the paper, section 3.2);
                ``"layer"`` removes the same share of every site, so that sites of equal width remain equal.
            limits: Floor and rounding.
            removes: Whether neurons may be removed; otherwise the only cut is 0.

        Raises:
            ConfigurationError: The scope is unknown.
        """
        check_choice("scope", scope, SCOPES)
        self.limits = limits or Limits()
        self.dense_widths = [len(ranking.scores) for ranking in rankings]
        self._orders = [ranking.order() for ranking in rankings]
        self._site, self.cuts = self._merge(rankings, scope)
        if not removes:
            self.cuts = [0]

    @classmethod
    def of(cls, rankings: Sequence[Ranking], config: VBPConfig) -> "RemovalOrder":
        """Return the order of a configuration, whose only cut is 0 where its levers do not include the MLPs."""
        removes = "mlp" in config.used_levers
        return cls(rankings, scope=config.scope, limits=config.limits, removes=removes)

    def _merge(self, rankings: Sequence[Ranking], scope: str) -> tuple[torch.Tensor, list[int]]:
        keys, owners = [], []
        for index, (ranking, order) in enumerate(zip(rankings, self._orders, strict=True)):
            width = len(order)
            removable = width - self.limits.floor(width)
            position = torch.arange(1, width + 1, dtype=torch.float64) / max(width, 1)
            keys.append((position if scope == "layer" else ranking.scores[order])[:removable])
            owners.append(torch.full((removable,), index))
        key, owner = torch.cat(keys), torch.cat(owners)
        # A stable sort breaks ties by site, then by the order within the site, on every machine.
        by_key = torch.argsort(key, stable=True)
        key, owner = key[by_key], owner[by_key]
        last_of_ties = torch.ones(len(key), dtype=torch.bool)
        if scope == "layer" and len(key) > 1:
            last_of_ties[:-1] = key[1:] != key[:-1]
        return owner, [0, *(torch.nonzero(last_of_ties).flatten() + 1).tolist()]

    def widths(self, cut: int) -> list[int]:
        """Return the width of every site after the first ``cut`` neurons of the order are removed."""
        removed = torch.bincount(self._site[:cut], minlength=len(self.dense_widths)).tolist()
        dense = self.dense_widths
        return [self.limits.rounded(full - count, full) for full, count in zip(dense, removed, strict=True)]

    def kept(self, cut: int) -> list[torch.Tensor]:
        """Return the ascending indices ``(width,)`` int64 of the kept neurons of each site."""
        return [
            torch.sort(order[len(order) - width :]).values
            for order, width in zip(self._orders, self.widths(cut), strict=True)
        ]

    def cut_of(self, widths: Sequence[int]) -> int | None:
        """Return the smallest cut that leaves these widths; None where none does."""
        low, high = 0, len(self.cuts) - 1
        while low < high:
            middle = (low + high) // 2
            if sum(self.widths(self.cuts[middle])) <= sum(widths):
                high = middle
            else:
                low = middle + 1
        return self.cuts[low] if self.widths(self.cuts[low]) == list(widths) else None

    def cut_for(
        self,
        budget: Budget,
        cost: Callable[[Sequence[int]], float],
        *,
        ceiling: str | None = None,
        means: str = "pruning the MLPs",
    ) -> int:
        """Return the smallest cut that meets ``budget``; ``cost`` maps widths to the achieved share.

        Raises:
            BudgetError: No cut meets it; ``ceiling`` and ``means`` as for :func:`smallest_cut`.
        """
        return smallest_cut(self.cuts, lambda cut: cost(self.widths(cut)), budget, ceiling=ceiling, means=means)


def smallest_cut(
    cuts: Sequence[int],
    achieved: Callable[[int], float],
    budget: Budget,
    *,
    ceiling: str | None = None,
    means: str = "pruning the MLPs",
) -> int:
    """Return the smallest allowed cut of the order of removal that meets a budget.

    Args:
        cuts: Allowed numbers of neurons to remove, ascending; the last removes all that may be removed.
        achieved: The share that a cut achieves; monotone in the cut.
        budget: The budget to meet.
        ceiling: Sentence to add to the error when the budget cannot be met.
        means: By what it cannot be met, for the error.

    Raises:
        BudgetError: Even the last cut does not meet the budget.
    """
    best = achieved(cuts[-1])
    if not budget.is_met_by(best):
        raise budget.unreachable(best, ceiling or "", means)
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if budget.is_met_by(achieved(cuts[middle])):
            high = middle
        else:
            low = middle + 1
    return cuts[low]
