"""Measure merged tokens and narrower MLPs on a grid, from which previews for any budget are interpolated."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.measured_distance import DistanceToDense
from hf_vbp.calibration.source import Source
from hf_vbp.config.budget import Budget
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, latency_of_widths
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import LatencyError
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.levers import LeverCandidate, counts_for, fewest_tokens
from hf_vbp.pruning.make_plan import fit_choice
from hf_vbp.pruning.meet_budget import choice_of
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements
from hf_vbp.token_merging.support import can_merge

MACS_BY_MERGING = (0.85, 0.7, 0.55)
"""Shares of MACs that the measured numbers of merged tokens keep without narrower MLPs."""
REMOVED = (0.0, 0.3, 0.6, 0.9)
"""Shares of hidden neurons that the measured models remove."""


@outside_inference_mode
def measure_grid(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    source: Source,
    rankings: Sequence[Ranking],
    *,
    limit: int = 32,
    latency: LatencyOptions | None = None,
    progress: Progress | None = None,
    on_noise: Callable[[LatencyError], None] = lambda error: warnings.warn(str(error), stacklevel=2),
) -> ActivationStatistics:
    """Return statistics with the measured output distance, and latency, of models on a grid.

    Args:
        prepared: The dense model.
        statistics: Statistics that hold what the configuration needs.
        config: The method, scope and limits; its budget is not used.
        source: The calibration images.
        rankings: Result of :func:`hf_vbp.pruning.make_plan.rank_sites` for this configuration.
        limit: The largest number of images on which a distance is measured.
        latency: Conditions under which the latency is measured; None measures none.
        progress: Receives the number of finished models and of all.
        on_noise: Receives the error where a latency cannot be measured; the point then lacks it.

    Raises:
        UnsupportedModelError: There is no output distance for this model.
    """
    order = RemovalOrder(rankings, scope=config.scope, limits=config.limits)
    grid = [LeverCandidate(merged, cut, 1.0) for merged in merged_numbers(prepared) for cut in _cuts(order)]
    plain = config.with_budget(ratio=0.5)
    points = []
    with own_precision(prepared.model):
        measured = DistanceToDense(prepared, source, limit)
        for index, one in enumerate(grid):
            if progress is not None:
                progress(index, len(grid))
            widths = tuple(order.widths(one.cut))
            model = apply_fitted(prepared, fit_choice(prepared, statistics, plain, rankings, choice_of(one, order)))
            timed = _timed(prepared, one, widths, latency, on_noise)
            points.append(LeverMeasurement(one.merged_tokens, widths, measured.of(model), timed))
    if progress is not None:
        progress(len(grid), len(grid))
    known = statistics.measurements_of(config.method)
    earlier = () if known is None else known.points
    kept = LeverMeasurements(config.method, measured.images, earlier).with_points(points)
    return statistics.with_measurements(kept)


def merged_numbers(prepared: PreparedModel) -> list[tuple[int, ...]]:
    """Return the merged tokens that are measured, before each block; without any first."""
    if not can_merge(prepared.model):
        return [()]
    numbers = {fewest_tokens(prepared, Budget("macs", share)) for share in MACS_BY_MERGING} - {None}
    return [(), *(counts_for(prepared.model, number) for number in sorted(filter(None, numbers)))]


def _timed(
    prepared: PreparedModel,
    one: LeverCandidate,
    widths: Sequence[int],
    latency: LatencyOptions | None,
    on_noise: Callable[[LatencyError], None],
) -> dict[str, Any]:
    """Return the latency of a model; none for the dense one, which is the unit."""
    if latency is None or (not one.merged_tokens and list(widths) == prepared.widths):
        return {}
    try:
        return latency_of_widths(prepared, widths, latency, merged_tokens=one.merged_tokens)
    except LatencyError as error:
        on_noise(error)
        return {}


def _cuts(order: RemovalOrder) -> list[int]:
    """Return cuts near the shares of :data:`REMOVED`, and the largest one, ascending."""
    last = len(order.cuts) - 1
    return sorted({order.cuts[round(share * last)] for share in REMOVED} | {order.cuts[last]})
