"""The widths that meet a latency budget, from few measurements."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.budget import Budget
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, describe_conditions, latency_of_widths
from hf_vbp.costs.widths import WidthCosts, width_costs
from hf_vbp.errors import BudgetError
from hf_vbp.pruning.budget_cost import advice_of, means_of, narrowest_widths
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.pruning.rounding import measured_rounding, options_of, with_rounding

MOST_CANDIDATES = 6
# A candidate that meets the budget is good enough if it is at most this share of the dense latency below it.
TOLERANCE = 0.02


@dataclass(frozen=True)
class MeasuredCut:
    """A cut of the removal order and its latency.

    Attributes:
        cut: Number of removed neurons in the order.
        removed: The share of MACs that it removes.
        share: The measured share of the dense latency.
        latency: The record of :func:`hf_vbp.costs.latency.latency_of_widths`; empty for the dense model.
    """

    cut: int
    removed: float
    share: float
    latency: dict[str, Any]


class _Search:
    """Measures cuts of a removal order, and finds cuts by their MACs."""

    def __init__(
        self,
        prepared: PreparedModel,
        order: RemovalOrder,
        options: LatencyOptions,
        progress: Progress | None,
        merged_tokens: Sequence[int],
    ) -> None:
        self.prepared, self.order, self.options, self.progress = prepared, order, options, progress
        self.merged_tokens = tuple(merged_tokens)
        self.costs: WidthCosts = width_costs(prepared, self.merged_tokens)

    def measure(self, cut: int) -> MeasuredCut:
        latency = known_or_measured(
            self.prepared, self.order.widths(cut), self.options, self.merged_tokens, self.progress
        )
        return MeasuredCut(cut, self.removed(cut), 1 / latency["speedup"], latency)

    def removed(self, cut: int) -> float:
        return 1 - self.costs.share("macs", self.order.widths(cut))

    def cut_at(self, removed: float) -> int:
        """Return the smallest cut that removes this share of the MACs."""
        cuts, low = self.order.cuts, 0
        high = len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            if self.removed(cuts[middle]) >= removed:
                high = middle
            else:
                low = middle + 1
        return cuts[low]


def meet_latency(
    prepared: PreparedModel,
    order: RemovalOrder,
    config: VBPConfig,
    progress: Progress | None = None,
    *,
    merged_tokens: Sequence[int] = (),
    most_candidates: int = MOST_CANDIDATES,
) -> MeasuredCut:
    """Return a cut that meets a latency budget, with little removed beyond it.

    The latency is nearly linear in the MACs. The search interpolates between a cut that meets the budget and one that
    does not, on their MACs, and measures the cut in between: at most 7 measurements in total, each repeated until it
    is certain. Noise can therefore shift the result by about the precision of a measurement, and no further.

    Args:
        prepared: The dense model.
        order: The removal order.
        config: The budget and the batch size of the measurement.
        progress: Receives the number of finished repetitions of each measurement and an estimate of all.
        merged_tokens: Tokens merged before each block; empty where none are.
        most_candidates: Measurements beside the first.

    Raises:
        BudgetError: The budget cannot be met, or the dense model meets it already.
        LatencyError: The times on this machine vary too much.
    """
    search = _Search(prepared, order, options_of(config), progress, merged_tokens)
    fast = search.measure(order.cuts[-1])
    target = _target(fast, config, merges=any(merged_tokens))
    if fast.cut == 0:
        return fast
    # The dense model needs no measurement: its share is 1 by definition.
    slow = search.measure(0) if any(merged_tokens) else MeasuredCut(0, 0.0, 1.0, {})
    if slow.share <= target:
        return slow
    for _ in range(most_candidates):
        if fast.share >= target - TOLERANCE:
            break
        cut = search.cut_at(_interpolated(slow, fast, target))
        if cut in (slow.cut, fast.cut):
            break
        measured = search.measure(cut)
        if measured.share <= target:
            fast = measured
        else:
            slow = measured
    return fast


def check_latency(
    prepared: PreparedModel,
    config: VBPConfig,
    progress: Progress | None = None,
    *,
    merged_tokens: Sequence[int] = (),
) -> None:
    """Refuse a latency budget that cannot be met, before any image is read; other budgets are ignored.

    Measures the dense model and the one whose MLPs have their minimum width, or the dense width where they are no
    lever; :func:`meet_latency` takes the figures over. Where merging is slower than what it saves, as in small batches
    on a GPU, the budget may be met without it.

    Args:
        prepared: The dense model.
        config: The budget.
        progress: As for :func:`meet_latency`.
        merged_tokens: The largest numbers of tokens that may be merged before each block.

    Raises:
        BudgetError: The budget cannot be met, or the dense model meets it already.
        LatencyError: The times on this machine vary too much.
    """
    if not config.has_budget or config.budget.kind != "latency":
        return
    config = with_rounding(config, measured_rounding(prepared, config, progress=progress))
    options, narrows = options_of(config), "mlp" in config.used_levers
    widths = narrowest_widths(prepared.widths, config.limits) if narrows else list(prepared.widths)
    fastest: MeasuredCut | None = None
    for merged in dict.fromkeys((tuple(merged_tokens), ())) if narrows else (tuple(merged_tokens),):
        latency = latency_of_widths(prepared, widths, options, merged_tokens=merged, progress=progress)
        prepared.latencies[_conditions(widths, options, merged)] = latency
        found = MeasuredCut(0, 0.0, 1 / latency["speedup"], latency)
        if fastest is None or found.share < fastest.share:
            fastest = found
        if found.share <= share_asked(config.budget, latency["dense_ms"]) < 1:
            return
    if fastest is not None:
        _target(fastest, config, merges=any(merged_tokens))


def known_or_measured(
    prepared: PreparedModel,
    widths: Sequence[int],
    options: LatencyOptions,
    merged_tokens: Sequence[int],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the latency of widths and merged tokens, which :func:`check_latency` may have measured already.

    Args:
        prepared: The dense model.
        widths: One width per site, in block order.
        options: The conditions of the measurement.
        merged_tokens: Tokens merged before each block.
        progress: As for :func:`meet_latency`.
    """
    known = prepared.latencies.pop(_conditions(widths, options, merged_tokens), None)
    if known is not None:
        return known
    return latency_of_widths(prepared, widths, options, merged_tokens=merged_tokens, progress=progress)


def share_asked(budget: Budget, dense_milliseconds: float) -> float:
    """Return the share of the dense latency that a budget asks for."""
    return budget.share if budget.milliseconds is None else budget.milliseconds / dense_milliseconds


def _conditions(widths: Sequence[int], options: LatencyOptions, merged_tokens: Sequence[int]) -> Hashable:
    return tuple(widths), options, torch.get_num_threads(), tuple(merged_tokens)


def _target(fastest: MeasuredCut, config: VBPConfig, *, merges: bool) -> float:
    """Return the share of the dense latency to keep, or refuse a budget that the fastest candidate does not meet."""
    budget, means = config.budget, means_of(config, merges=merges)
    dense, pruned = fastest.latency["dense_ms"], fastest.latency["pruned_ms"]
    measured = f"measured with {describe_conditions(fastest.latency)}"
    target = share_asked(budget, dense)
    if target >= 1:
        raise BudgetError(
            f"latency: the dense model takes {dense:.4g} ms, which meets {budget.asked} without pruning ({measured}). "
            "Ask for less time."
        )
    if fastest.share >= 1:
        verb = "pruning" if "mlp" in config.used_levers else "merging tokens"
        raise BudgetError(
            f"latency: {budget.asked} cannot be reached by {means}: the smallest such model takes {pruned:.4g} ms, "
            f"and {dense:.4g} ms before, so {verb} does not make it faster here ({measured}). "
            "Ask for a larger batch, or give the budget as a share of MACs or parameters."
        )
    if fastest.share > target:
        # The share is that of the median ratio; the two medians are shown as measured.
        time = "" if budget.milliseconds is None else f" ({dense * fastest.share:.4g} ms)"
        raise BudgetError(
            f"latency: {budget.asked} cannot be reached by {means}; no less than a share of "
            f"{fastest.share:.3f}{time} can be kept: {dense:.4g} ms dense, {pruned:.4g} ms pruned, {measured}. "
            f"{advice_of(config)}"
        )
    return target


def _interpolated(slow: MeasuredCut, fast: MeasuredCut, target: float) -> float:
    """Return the share of MACs to remove next: where a line through both meets a point just below the target."""
    aim = target - TOLERANCE / 2
    fall = slow.share - fast.share
    position = (slow.share - aim) / fall if fall > 0 else 0.5
    # Away from both ends, so that each measurement narrows the range.
    position = min(max(position, 0.05), 0.95)
    return slow.removed + position * (fast.removed - slow.removed)
