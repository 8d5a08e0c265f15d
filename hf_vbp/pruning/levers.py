"""Spend a budget on two levers: for each number of merged tokens the widths that meet it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.budget import COSTS, Budget
from hf_vbp.config.levers import CHOOSES_TOKENS
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.widths import width_costs
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.modeling.modeling_hf_vbp import find_tower
from hf_vbp.pruning.budget_cost import advice_of, check_budget, means_of, narrowest_widths
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.token_merging.schedules import counts_of
from hf_vbp.token_merging.support import why_not_mergeable


class LeverWarning(UserWarning):
    """A budget is met with fewer levers than were asked for."""


@dataclass(frozen=True)
class LeverCandidate:
    """Merged tokens and a cut of the removal order that meet a budget together.

    Attributes:
        merged_tokens: Tokens merged before each block; empty where none are.
        cut: Number of removed neurons in the order.
        achieved: The achieved share, in the unit of the budget.
        latency: The measurement for a latency budget.
    """

    merged_tokens: tuple[int, ...]
    cut: int
    achieved: float
    latency: dict[str, Any] = field(default_factory=dict)


def check_tokens(model: nn.Module, config: VBPConfig) -> bool:
    """Return whether tokens may be merged to meet the budget of a configuration.

    Args:
        model: The dense model.
        config: Its levers; the default ones leave the tokens alone where the model does not allow merging.

    Raises:
        ConfigurationError: Merging is asked for, but the model or the budget does not allow it.
    """
    if "tokens" not in config.used_levers:
        return False
    reason = why_not_mergeable(model)
    asked = config.levers is not None or config.merge_tokens is not None
    if reason and asked:
        raise ConfigurationError(f"The lever tokens cannot be used: {reason} Leave it out (levers=mlp).")
    if config.has_budget and config.budget.kind not in CHOOSES_TOKENS:
        _check_other_budget(config)
    return not reason


def _check_other_budget(config: VBPConfig) -> None:
    """Refuse a budget of neurons or parameters that merged tokens alone, or an unknown number, would have to meet."""
    kind = COSTS[config.budget.kind]
    if "mlp" not in config.used_levers:
        raise ConfigurationError(
            f"Merged tokens do not change the number of {kind}, so the lever tokens alone cannot meet this budget, "
            "with any merge_tokens. Use the lever mlp too (levers mlp,tokens), or give a budget of MACs or latency."
        )
    if config.merge_tokens is None:
        raise ConfigurationError(
            f"Merged tokens do not change the number of {kind}: give the number of tokens to merge (--merge-tokens, "
            "merge_tokens from Python), or a budget of MACs or latency."
        )


def check_levers(prepared: PreparedModel, config: VBPConfig) -> bool:
    """Refuse a budget that the levers cannot meet, and return whether tokens may be merged.

    Args:
        prepared: The dense model.
        config: Budget, levers and limits.

    Raises:
        BudgetError: The budget cannot be met; the message contains the share that can be reached. Or the dense model
            meets it already, so that nothing would be removed.
        ConfigurationError: As for :func:`check_tokens`.
    """
    merges = check_tokens(prepared.model, config)
    if not merges or not config.has_budget or config.budget.kind != "macs":
        check_budget(prepared, config)
        return merges
    config.budget.check_removes()
    number = most_tokens(prepared) if config.merge_tokens is None else config.merge_tokens
    widths = narrowest_widths(prepared.widths, config.limits) if "mlp" in config.used_levers else prepared.widths
    best = macs_share(prepared, number)(widths)
    if not config.budget.is_met_by(best):
        raise config.budget.unreachable(best, advice_of(config), means_of(config, merges=number > 0))
    return merges


def lever_candidates(prepared: PreparedModel, config: VBPConfig, order: RemovalOrder) -> list[LeverCandidate]:
    """Return about six ways to spend a budget of MACs, from merging alone to narrower MLPs alone.

    For each number of merged tokens the budget fixes the neurons. Most candidates are close to merging alone, because
    there the damage changes fastest.

    Args:
        prepared: The dense model, whose tokens can be merged.
        config: Its budget, of MACs.
        order: The removal order.

    Raises:
        BudgetError: No candidate meets the budget.
    """
    found, most = [], most_tokens(prepared)
    alone = fewest_tokens(prepared, config.budget)
    numbers = [n for n in candidate_numbers(alone if alone is not None else most) if n <= most]
    if "mlp" not in config.used_levers:
        numbers = [] if alone is None else [alone]
    error: BudgetError | None = None
    for number in numbers:
        try:
            found.append(with_tokens(prepared, config, order, number))
        except BudgetError as refused:
            error = error or refused
    if not found:
        raise error or BudgetError(
            f"MACs: {config.budget.share:g} cannot be reached by merging tokens alone (at most {most} per block). Use "
            "both levers, or ask for a larger share."
        )
    return found


def counts_for(model: nn.Module, number: int) -> tuple[int, ...]:
    """Return the tokens to merge before each block, for the same number before every block but the first.

    Args:
        model: A model whose tokens can be merged.
        number: The number; for 0 the result is empty.
    """
    tower = find_tower(model)
    return tuple(counts_of(number, len(tower.blocks))) if number and tower is not None else ()


def most_tokens(prepared: PreparedModel) -> int:
    """Return the largest number of merged tokens per block that is tried: half of the tokens."""
    return width_costs(prepared).tokens[0] // 2


def most_merged_tokens(prepared: PreparedModel, config: VBPConfig) -> tuple[int, ...]:
    """Return the largest numbers of tokens that a plan may merge before each block; empty where it merges none.

    Args:
        prepared: The dense model.
        config: Its levers.
    """
    if not check_tokens(prepared.model, config):
        return ()
    number = config.merge_tokens
    return counts_for(prepared.model, most_tokens(prepared) if number is None else number)


def candidate_numbers(alone: int) -> list[int]:
    """Return the numbers of merged tokens to try, descending.

    Args:
        alone: The number that meets the budget without narrower MLPs.

    Example:
        >>> candidate_numbers(15)
        [15, 14, 13, 11, 8, 0]
    """
    return sorted({max(alone - less, 0) for less in (0, 1, 2, 4)} | {(alone + 1) // 2, 0}, reverse=True)


def fewest_tokens(prepared: PreparedModel, budget: Budget) -> int | None:
    """Return the smallest number of merged tokens that meets a budget of MACs alone; None where none does."""
    low, high = 1, most_tokens(prepared)

    def met(number: int) -> bool:
        return budget.is_met_by(macs_share(prepared, number)(prepared.widths))

    if high < 1 or not met(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if met(middle):
            high = middle
        else:
            low = middle + 1
    return low


def macs_share(prepared: PreparedModel, number: int) -> Callable[[Sequence[int]], float]:
    """Return the function from widths to the share of the dense MACs with this many merged tokens; a closed form."""
    dense = width_costs(prepared).dense["macs"]
    costs = width_costs(prepared, counts_for(prepared.model, number))
    return lambda widths: costs.of(widths)["macs"] / dense


def with_tokens(prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, number: int) -> LeverCandidate:
    """Return the least removal that meets a budget of MACs with this many merged tokens.

    Raises:
        BudgetError: No removal meets it.
    """
    achieved_by = macs_share(prepared, number)
    budget = config.budget
    cut = 0
    if not budget.is_met_by(achieved_by(order.widths(0))):
        means = means_of(config, merges=number > 0)
        cut = order.cut_for(budget, achieved_by, ceiling=advice_of(config), means=means)
    return LeverCandidate(counts_for(prepared.model, number), cut, achieved_by(order.widths(cut)))


def least_damage(candidates: Sequence[LeverCandidate], distances: Sequence[float | None]) -> LeverCandidate | None:
    """Return the candidate of the least output distance; the one that merges less where two are equal.

    Args:
        candidates: The candidates.
        distances: The output distance of each; None where it is not known.
    """
    known = [
        (distance, sum(candidate.merged_tokens), index)
        for index, (candidate, distance) in enumerate(zip(candidates, distances, strict=True))
        if distance is not None
    ]
    return candidates[min(known)[2]] if known else None
