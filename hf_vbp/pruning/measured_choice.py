"""Choose among measured models with merged tokens, and warn where too little was measured."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import current_conditions, same_conditions
from hf_vbp.errors import BudgetError
from hf_vbp.pruning.latency_search import share_asked
from hf_vbp.pruning.levers import (
    LeverCandidate,
    LeverWarning,
    counts_for,
    least_damage,
    lever_candidates,
    with_tokens,
)
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.pruning.rounding import options_of
from hf_vbp.statistics.lever_measurements import LeverMeasurements

FEWEST_KNOWN = 3
"""Numbers of merged tokens with a known distance, from which one is chosen without a warning."""
WIDEST_GAP = 0.1
"""A measured model that takes less of the latency than was asked for by more than this is chosen with a warning."""
HOW_TO_MEASURE = (
    "Measure at this budget with hf_vbp.measure_levers, or with `hf-vbp prune --statistics FILE --data IMAGES`, which "
    "keeps the measurements in FILE; or ask for narrower MLPs alone (levers mlp)."
)


class MeasuredChoice(NamedTuple):
    """The measured model of least damage.

    Attributes:
        candidate: The model.
        doubt: Why another one may be much better; empty where the measurements are near the budget.
    """

    candidate: LeverCandidate
    doubt: str = ""


def best_candidate(
    prepared: PreparedModel,
    config: VBPConfig,
    order: RemovalOrder,
    measurements: LeverMeasurements | None,
) -> MeasuredChoice | None:
    """Return the candidate of the least measured damage; None where no candidate was measured.

    Args:
        prepared: The dense model, whose tokens can be merged.
        config: The budget.
        order: The removal order.
        measurements: The measurements.

    Raises:
        BudgetError: The levers cannot meet the budget.
    """
    if measurements is None:
        return None
    if config.budget.kind == "latency":
        return _of_latency(prepared, config, order, measurements)
    expected = lever_candidates(prepared, config, order)
    found = [*_of_measured_numbers(prepared, config, order, measurements), *expected]
    every = {one.merged_tokens: one for one in found}
    distances = {merged: measurements.distance(merged, order.widths(one.cut)) for merged, one in every.items()}
    chosen = least_damage(list(every.values()), list(distances.values()))
    if chosen is None:
        return None
    fresh = {one.merged_tokens for one in expected}
    if all(distances[merged] is not None for merged in fresh):
        return MeasuredChoice(chosen)
    # Numbers that meet the budget without narrower MLPs, and more than the smallest such number, are far from it.
    near = [merged for merged, one in every.items() if merged in fresh or one.cut]
    known = sum(distances[merged] is not None for merged in near)
    if known >= FEWEST_KNOWN:
        return MeasuredChoice(chosen)
    numbers = {0: "no number", 1: "1 number"}.get(known, f"{known} numbers")
    return MeasuredChoice(
        chosen,
        f"the statistics hold measurements for this budget for {numbers} of merged tokens, so another number "
        "may damage the model less.",
    )


def _of_measured_numbers(
    prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, measurements: LeverMeasurements
) -> list[LeverCandidate]:
    """Return the least removal that meets a budget of MACs, for each measured number of merged tokens."""
    if "mlp" not in config.used_levers:
        # Every number above the smallest one that meets the budget only does more damage.
        return []
    found = []
    for merged in sorted({point.merged_tokens for point in measurements.points}):
        number = max(merged, default=0)
        if merged != counts_for(prepared.model, number):
            continue
        try:
            found.append(with_tokens(prepared, config, order, number))
        except BudgetError:
            # The other numbers may meet it.
            continue
    return found


def _of_latency(
    prepared: PreparedModel, config: VBPConfig, order: RemovalOrder, measurements: LeverMeasurements
) -> MeasuredChoice | None:
    conditions = current_conditions(prepared.model, options_of(config))
    known = measured_candidates(config, order, measurements, conditions)
    distances = [measurements.distance(one.merged_tokens, order.widths(one.cut)) for one in known]
    chosen = least_damage(known, distances)
    if chosen is None:
        return None
    asked = share_asked(config.budget, chosen.latency["dense_ms"])
    if chosen.achieved >= asked - WIDEST_GAP:
        return MeasuredChoice(chosen)
    return MeasuredChoice(
        chosen,
        f"the measured models are far from this budget: the chosen one keeps a share of {chosen.achieved:.3f} of the "
        f"latency, where {asked:.3f} was asked for, so less may be removed.",
    )


def measured_candidates(
    config: VBPConfig, order: RemovalOrder, measurements: LeverMeasurements, conditions: Mapping[str, Any]
) -> list[LeverCandidate]:
    """Return the measured models that meet a latency budget under these conditions.

    Args:
        config: The budget.
        order: The removal order.
        measurements: The measurements.
        conditions: What must be equal in their latency: batch, dtype, threads and device.
    """
    found = []
    for point in measurements.points:
        latency = dict(point.latency)
        same = {"speedup", "dense_ms"} <= latency.keys() and same_conditions(latency, conditions)
        if same and 1 / latency["speedup"] <= share_asked(config.budget, latency["dense_ms"]):
            cut = order.cut_of(point.widths)
            if cut is not None:
                found.append(LeverCandidate(point.merged_tokens, cut, 1 / latency["speedup"], latency))
    return found


def warn_of_missing(reason: str) -> None:
    """Warn that too little is known of merged tokens, with the next step.

    Args:
        reason: What is missing, and what was done instead; a sentence.
    """
    # The caller of make_plan or prune.
    warnings.warn(f"{reason} {HOW_TO_MEASURE}", LeverWarning, stacklevel=6)
