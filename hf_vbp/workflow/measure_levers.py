"""Measure what merged tokens and narrower MLPs cost together, so that a plan can spend its budget on both."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel, prepare_sites
from hf_vbp.calibration.measured_distance import MOST_IMAGES, DistanceToDense
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.base import Ranking
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.levers import LeverWarning, check_tokens, lever_candidates
from hf_vbp.pruning.make_plan import FittedPlan, fit_choice, rank_sites
from hf_vbp.pruning.meet_budget import choice_of, latency_candidates
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.pruning.rounding import measured_rounding, with_rounding
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        statistics: Statistics with the measurements.
        fitted: The measured model of the least distance, fitted; None where nothing was measured.
        warns: Whether a plan warns where too little was measured: not where it was just measured, or the reason given.
    """

    statistics: ActivationStatistics
    fitted: FittedPlan | None = None
    warns: bool = True


def chooses_tokens(prepared: PreparedModel, config: VBPConfig) -> bool:
    """Return whether the number of merged tokens is to be chosen for the budget of a configuration.

    Args:
        prepared: The dense model.
        config: Budget and levers.
    """
    return config.has_budget and config.merge_tokens is None and check_tokens(prepared.model, config)


@outside_inference_mode
def measure_levers(
    model: nn.Module | PreparedModel,
    statistics: ActivationStatistics,
    data: Iterable[Any],
    config: VBPConfig,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Measure what merged tokens and narrower MLPs cost together at a budget, and keep it with the statistics.

    :func:`hf_vbp.prune` does this itself; it is the step between :func:`hf_vbp.collect_statistics` and
    :func:`hf_vbp.make_plan` for those who take the steps one by one. Statistics are returned unchanged where the
    configuration merges no tokens, or gives their number.

    Args:
        model: The dense model; it is not changed.
        statistics: Its statistics.
        data: The calibration images, which can be read again; at most 256 are used.
        config: Method, budget and levers.
        limit: Use at most this many images.
        progress: Receives the number of finished images of all measured models, and of all.

    Returns:
        New statistics, from which :func:`hf_vbp.make_plan` chooses among the measured models.

    Raises:
        BudgetError: The levers cannot meet the budget.
        LatencyError: The times on this machine vary too much.
        StatisticsError: The statistics belong to another model, or lack something.

    Example:
        >>> statistics = hf_vbp.measure_levers(model, statistics, images, config)  # doctest: +SKIP
    """
    source = Source.of(data)
    prepared = prepare_sites(model, source.first)
    if not chooses_tokens(prepared, config):
        return statistics
    rankings = rank_sites(prepared, statistics, config)
    with own_precision(prepared.model):
        return with_lever_measurements(
            prepared, statistics, config, source, rankings=rankings, limit=limit, progress=progress
        ).statistics


def with_lever_measurements(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    source: Source | None,
    *,
    rankings: Sequence[Ranking],
    limit: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Return statistics with what a plan needs to spend the budget of a configuration on both levers.

    The budget fixes the neurons for each number of merged tokens. About six such models are made, and the output
    distance of each to the dense model is measured on at most 256 calibration images; for a latency budget also the
    time. Statistics are returned unchanged where the configuration merges no tokens, or gives their number, or where
    the measurements are there already.

    Args:
        prepared: The dense model.
        statistics: Statistics that hold what the configuration needs.
        config: Method, budget and levers.
        source: The calibration images; without them nothing is measured.
        rankings: Result of :func:`hf_vbp.pruning.make_plan.rank_sites` for this configuration.
        limit: The largest number of images.
        progress: Receives the number of finished images of all models and of all.

    Raises:
        BudgetError: The levers cannot meet the budget.
        LatencyError: The times on this machine vary too much.
        UnsupportedModelError: There is no output distance for this model.
    """
    if source is None or not chooses_tokens(prepared, config):
        return Measured(statistics)
    if source.read_once:
        warnings.warn(
            "the images can be read only once, so merged tokens are not measured, and the budget is met by narrower "
            "MLPs alone. Pass a list of batches, a DataLoader or the result of load_images to use both.",
            LeverWarning,
            stacklevel=4,
        )
        return Measured(statistics, warns=False)
    known = statistics.measurements_of(config.method) or LeverMeasurements(config.method, 1, ())
    rounding = measured_rounding(prepared, config, known, progress)
    rounded = with_rounding(config, rounding)
    order = RemovalOrder.of(rankings, rounded)
    if config.budget.kind == "latency":
        new = latency_candidates(prepared, rounded, order, progress)
    else:
        found = lever_candidates(prepared, rounded, order)
        new = [one for one in found if known.distance(one.merged_tokens, order.widths(one.cut)) is None]
    if not new:
        return Measured(statistics)
    measured = DistanceToDense(prepared, source, MOST_IMAGES if limit is None else min(MOST_IMAGES, limit))
    points: list[LeverMeasurement] = []
    best: FittedPlan | None = None
    for index, one in enumerate(new):
        fitted = fit_choice(prepared, statistics, config, rankings, choice_of(one, order))
        model = apply_fitted(prepared, fitted)
        distance = measured.of(model, _part(progress, index, len(new)))
        # Of all fitted models only the best one is kept, because their weights take memory.
        if all(distance < point.distance for point in points):
            best = fitted
        points.append(LeverMeasurement(one.merged_tokens, tuple(order.widths(one.cut)), distance, one.latency))
    updated = LeverMeasurements(config.method, measured.images, known.points, rounding).with_points(points)
    return Measured(statistics.with_measurements(updated), best, warns=False)


def _part(progress: Progress | None, index: int, parts: int) -> Progress | None:
    if progress is None:
        return None

    def report(done: int, total: int | None) -> None:
        progress(index * (total or 0) + done, None if total is None else parts * total)

    return report
