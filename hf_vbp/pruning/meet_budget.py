"""The least removal that meets a budget, by narrower MLPs, merged tokens, or both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.budget import Budget
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.pruning.budget_cost import budget_cost
from hf_vbp.pruning.latency_search import (
    TOLERANCE,
    known_or_measured,
    meet_latency,
    share_asked,
)
from hf_vbp.pruning.levers import (
    LeverCandidate,
    counts_for,
    fewest_tokens,
    most_tokens,
    with_tokens,
)
from hf_vbp.pruning.measured_choice import HOW_TO_MEASURE, best_candidate, warn_of_missing
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.pruning.rounding import options_of
from hf_vbp.statistics.lever_measurements import LeverMeasurements
from hf_vbp.token_merging.support import can_merge


@dataclass(frozen=True, eq=False)
class Choice:
    """The least removal that meets a budget.

    Attributes:
        kept: ``(width,)`` int64 for each site, the ascending indices of the kept neurons.
        achieved: The achieved share, in the unit of the budget.
        latency: The measurement for a latency budget.
        merged_tokens: Tokens merged before each block; empty where none are.
    """

    kept: list[Tensor]
    achieved: float
    latency: dict[str, Any] = field(default_factory=dict)
    merged_tokens: tuple[int, ...] = ()


def meet_budget(
    prepared: PreparedModel,
    config: VBPConfig,
    rankings: Sequence[Ranking],
    *,
    measurements: LeverMeasurements | None = None,
    warns: bool = True,
    progress: Progress | None = None,
) -> Choice:
    """Return the least removal that meets the budget of a configuration.

    Args:
        prepared: The dense model.
        config: Budget, levers, scope and limits.
        rankings: Result of :func:`hf_vbp.pruning.make_plan.rank_sites`.
        measurements: What is known of merged tokens; without it only the MLPs are made narrower, unless the
            configuration gives the number of merged tokens.
        warns: Whether to warn where too little was measured; false where that was reported already.
        progress: For a latency budget: receives the number of finished repetitions of each measurement.

    Raises:
        BudgetError: The levers cannot meet the budget.

    Warns:
        LeverWarning: Tokens may be merged, but nothing, or too little, is known about the damage.
    """
    order = RemovalOrder.of(rankings, config)
    number = config.merge_tokens
    unmeasured = number is None and "tokens" in config.used_levers and can_merge(prepared.model)
    if unmeasured:
        chosen = best_candidate(prepared, config, order, measurements)
        if chosen is not None:
            if warns and chosen.doubt:
                warn_of_missing(chosen.doubt)
            return choice_of(chosen.candidate, order)
        if "mlp" not in config.used_levers:
            raise ConfigurationError(
                "The number of merged tokens cannot be chosen without measurements at this budget. Give the number "
                f"(--merge-tokens, merge_tokens from Python). {HOW_TO_MEASURE}"
            )
    try:
        found = choice_of(candidate_of(prepared, config, order, number or 0, progress), order)
    except BudgetError as error:
        if not unmeasured:
            raise
        raise BudgetError(
            f"{error} Merged tokens may reach it, but the statistics hold no measurements of them: pass images to "
            "prune (--data), or measure with hf_vbp.measure_levers."
        ) from error
    if unmeasured and warns:
        warn_of_missing(
            "the statistics hold no measurements of merged tokens at this budget, which is met by narrower MLPs alone."
        )
    return found


def candidate_of(
    prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, number: int, progress: Progress | None = None
) -> LeverCandidate:
    """Return the least removal that meets a budget with this number of merged tokens.

    Args:
        prepared: The dense model.
        config: The budget.
        order: The removal order.
        number: Tokens merged before every block but the first.
        progress: For a latency budget, as for :func:`meet_budget`.

    Raises:
        BudgetError: The budget cannot be met.
    """
    kind = config.budget.kind
    if kind == "latency":
        merged = counts_for(prepared.model, number)
        found = meet_latency(prepared, order, config, progress, merged_tokens=merged)
        return LeverCandidate(merged, found.cut, found.share, found.latency)
    if kind == "macs" and number:
        return with_tokens(prepared, config, order, number)
    achieved_by = budget_cost(prepared, kind)
    cut = order.cut_for(config.budget, achieved_by)
    return LeverCandidate(counts_for(prepared.model, number), cut, achieved_by(order.widths(cut)))


def latency_candidates(
    prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, progress: Progress | None = None
) -> list[LeverCandidate]:
    """Return a few measured ways to spend a latency budget.

    With both levers they are between merging alone and narrower MLPs alone, with numbers of merged tokens around the
    one whose MACs are the requested share. With merged tokens alone they are the numbers of a search for the smallest.

    Args:
        prepared: The dense model, whose tokens can be merged.
        config: Its budget, a latency.
        order: The removal order.
        progress: As for :func:`meet_budget`.

    Raises:
        BudgetError: No candidate meets the budget.
    """
    if "mlp" not in config.used_levers:
        return _by_tokens_alone(prepared, config, order, progress)
    most, dense_ms = most_tokens(prepared), 1.0
    if config.budget.milliseconds is not None:
        widths, merged = order.widths(order.cuts[-1]), counts_for(prepared.model, most)
        dense_ms = known_or_measured(prepared, widths, options_of(config), merged, progress)["dense_ms"]
    share = min(max(share_asked(config.budget, dense_ms), 0.01), 0.99)
    alone = fewest_tokens(prepared, Budget("macs", share)) or most
    found, error = [], None
    for number in sorted({min(alone + 1, most), alone, max(alone - 2, 0), (alone + 1) // 2, 0}, reverse=True):
        merged = counts_for(prepared.model, number)
        try:
            one = meet_latency(prepared, order, config, progress, merged_tokens=merged, most_candidates=2)
        except BudgetError as refused:
            error = error or refused
        else:
            found.append(LeverCandidate(merged, one.cut, one.share, one.latency))
    if not found and error is not None:
        raise error
    return found


def _by_tokens_alone(
    prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, progress: Progress | None
) -> list[LeverCandidate]:
    """Return measured numbers of merged tokens that meet a latency budget, the last near the smallest such number."""

    def measured(number: int) -> LeverCandidate:
        merged = counts_for(prepared.model, number)
        one = meet_latency(prepared, order, config, progress, merged_tokens=merged)
        return LeverCandidate(merged, one.cut, one.share, one.latency)

    low, high = 0, most_tokens(prepared)
    # Refuses a budget that cannot be met, with the share that can be.
    found = [measured(high)]
    asked = share_asked(config.budget, found[0].latency["dense_ms"])
    while high - low > 1 and found[-1].achieved < asked - TOLERANCE:
        middle = (low + high) // 2
        try:
            found.append(measured(middle))
        except BudgetError:
            low = middle
        else:
            high = middle
    return found


def choice_of(chosen: LeverCandidate, order: RemovalOrder) -> Choice:
    """Return the choice of a candidate."""
    return Choice(order.kept(chosen.cut), chosen.achieved, chosen.latency, chosen.merged_tokens)
