"""Previews of plans for any budget in milliseconds: exact widths and costs, interpolated predicted output error.

The neurons that a site keeps at a width do not depend on the budget, so its predicted output error is a function of
its width alone. It is computed at some widths once, and interpolated between them.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.compensation.base import compensate
from hf_vbp.config.budget import Budget
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.widths import width_costs
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.modeling.precision import outside_inference_mode
from hf_vbp.pruning.budget_cost import advice_of
from hf_vbp.pruning.damage import DamagePrediction
from hf_vbp.pruning.latency_search import share_asked
from hf_vbp.pruning.levers import LeverCandidate, check_levers, with_tokens
from hf_vbp.pruning.meet_budget import candidate_of
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements

REMOVED_AT = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96, 1.0)
"""Shares of removed neurons of a site at which its output error is computed."""


@dataclass(frozen=True)
class DamageCurve:
    """The predicted output error of one site as a function of its width.

    Attributes:
        widths: Widths at which it was computed, ascending; the last one is the dense width.
        errors: The expected squared output error per token at each of them.
        energy: The error of replacing the site by a constant.
    """

    widths: tuple[int, ...]
    errors: tuple[float, ...]
    energy: float

    def at(self, width: int) -> float:
        """Return the error at a width, between two computed ones as a power of the number of removed neurons."""
        above = bisect_left(self.widths, width)
        if above < len(self.widths) and self.widths[above] == width:
            return self.errors[above]
        above = min(max(above, 1), len(self.widths) - 1)
        high, low = self.errors[above - 1 : above + 1]
        more, fewer = (self.widths[-1] - known for known in self.widths[above - 1 : above + 1])
        removed = self.widths[-1] - width
        if min(high, low, fewer) <= 0:
            return low + (removed - fewer) / (more - fewer) * (high - low)
        share = math.log(removed / fewer) / math.log(more / fewer)
        return math.exp(math.log(low) + share * math.log(high / low))


@dataclass(frozen=True)
class Preview:
    """Widths, cost and expected damage of a plan that was not made yet.

    Attributes:
        widths: The width of each site, as in the plan.
        cost: ``parameters``, ``macs`` and ``bytes`` of the pruned model, as in the plan.
        dense: The same of the dense model.
        predicted: Relative output error of the MLPs, interpolated; None where it is not defined.
        merged_tokens: Tokens merged before each block; empty where none are.
        distance: Output distance to the dense model in nats, interpolated between measured models; None if unknown.
        latency: Share of the dense latency, interpolated between measured models; None if unknown.
        cost_part: Name of the vision tower, where only its cost counts, as in the plan.
    """

    widths: tuple[int, ...]
    cost: dict[str, int]
    dense: dict[str, int]
    predicted: float | None = None
    merged_tokens: tuple[int, ...] = ()
    distance: float | None = None
    latency: float | None = None
    cost_part: str = ""

    @property
    def number(self) -> int:
        """Tokens merged before every block but the first."""
        return max(self.merged_tokens, default=0)


def damage_curves(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    rankings: Sequence[Ranking],
    config: VBPConfig,
    progress: Progress | None = None,
) -> tuple[DamageCurve, ...]:
    """Return the predicted output error of every site as a function of its width.

    Args:
        prepared: The dense model.
        statistics: Its statistics.
        rankings: Result of :func:`hf_vbp.pruning.make_plan.rank_sites` for the criterion of ``config``.
        config: Names the compensation.
        progress: Receives the number of finished sites and of all.
    """
    compensation, curves = config.make_compensation(), []
    for index, ranking in enumerate(rankings):
        site, weights, order = statistics.sites[index], prepared.weights[index], ranking.order()
        dense = len(order)
        widths = sorted({max(1, round(dense * (1 - removed))) for removed in REMOVED_AT})
        prediction = DamagePrediction([site] * len(widths), "auto" if _all_weighted(statistics) else "identity")
        for width in widths:
            kept = order[dense - width :].sort().values
            prediction.add(site, weights, kept, compensate(compensation, weights, kept, site))
        found = prediction.result().sites
        curves.append(DamageCurve(tuple(widths), tuple(one.error for one in found), found[0].energy))
        if progress is not None:
            progress(index + 1, len(rankings))
    return tuple(curves)


class Previewer:
    """Previews for any budget of one model, from the statistics of one pass.

    Args:
        prepared: The dense model.
        rankings: Its rankings by the criterion.
        curves: Result of :func:`damage_curves` for the same rankings.
    """

    def __init__(self, prepared: PreparedModel, rankings: Sequence[Ranking], curves: Sequence[DamageCurve]) -> None:
        self.prepared, self.rankings, self.curves = prepared, list(rankings), tuple(curves)
        self._orders: dict[Any, RemovalOrder] = {}

    @outside_inference_mode
    def of(self, config: VBPConfig, measurements: LeverMeasurements | None = None) -> Preview:
        """Return the preview of a plan.

        Args:
            config: The budget, scope, limits and levers.
            measurements: Measured models with merged tokens and narrower MLPs, among which the number of merged
                tokens is chosen, and without which a latency is not known.

        Raises:
            BudgetError: The budget cannot be met.
            ConfigurationError: The latency was not measured, or the levers do not fit the model or the budget.
        """
        order = self._order(config)
        points = () if measurements is None else measurements.points
        chosen = self._chosen(config, order, points)
        widths = order.widths(chosen.cut)
        near = _of_tokens(points, chosen.merged_tokens)
        return Preview(
            tuple(widths),
            width_costs(self.prepared, chosen.merged_tokens).of(widths),
            width_costs(self.prepared).dense,
            self.predicted(widths),
            chosen.merged_tokens,
            _distance(near, widths),
            self._latency(near, chosen.merged_tokens, widths),
            width_costs(self.prepared).part,
        )

    def predicted(self, widths: Sequence[int]) -> float | None:
        """Return the interpolated relative output error of the MLPs at these widths."""
        energy = sum(curve.energy for curve in self.curves)
        error = sum(curve.at(width) for curve, width in zip(self.curves, widths, strict=True))
        return error / energy if energy > 0 else None

    def _order(self, config: VBPConfig) -> RemovalOrder:
        key = (config.scope, config.limits, "mlp" in config.used_levers)
        if key not in self._orders:
            self._orders[key] = RemovalOrder.of(self.rankings, config)
        return self._orders[key]

    def _chosen(self, config: VBPConfig, order: RemovalOrder, points: Sequence[LeverMeasurement]) -> LeverCandidate:
        merges, kind = check_levers(self.prepared, config), config.budget.kind
        if kind == "latency" and not any(point.latency for point in points):
            raise ConfigurationError("The latency of this model was not measured. Measure it first.")
        if config.merge_tokens is not None or (kind != "latency" and not (merges and kind == "macs")):
            return candidate_of(self.prepared, config, order, config.merge_tokens or 0)
        found, error = [], None
        for merged in sorted({point.merged_tokens for point in points if merges or not point.merged_tokens} | {()}):
            try:
                found.append(self._with_tokens(config, order, merged, _of_tokens(points, merged)))
            except BudgetError as refused:
                error = error or refused
        if error is not None and not found:
            raise error
        return min(found, key=lambda one: self._damage(one, order, points))

    def _with_tokens(
        self, config: VBPConfig, order: RemovalOrder, merged: tuple[int, ...], near: Sequence[LeverMeasurement]
    ) -> LeverCandidate:
        if config.budget.kind == "macs":
            return with_tokens(self.prepared, config, order, max(merged, default=0))

        def share(widths: Sequence[int]) -> float:
            found = self._latency(near, merged, widths)
            return 1.0 if found is None else found

        asked = share_asked(config.budget, near[0].latency["dense_ms"] if near and near[0].latency else 1.0)
        budget = Budget("latency", min(max(asked, 1e-6), 1 - 1e-6))
        cut = order.cut_for(budget, share, ceiling=advice_of(config))
        return LeverCandidate(merged, cut, share(order.widths(cut)))

    def _latency(
        self, near: Sequence[LeverMeasurement], merged: tuple[int, ...], widths: Sequence[int]
    ) -> float | None:
        known = [(sum(point.widths), 1 / point.latency["speedup"]) for point in near if point.latency]
        # The dense model is the unit.
        dense = [] if merged else [(sum(self.prepared.widths), 1.0)]
        return _between([*known, *dense], sum(widths)) if known else None

    def _damage(
        self, one: LeverCandidate, order: RemovalOrder, points: Sequence[LeverMeasurement]
    ) -> tuple[float, int]:
        distance = _distance(_of_tokens(points, one.merged_tokens), order.widths(one.cut))
        return (math.inf if distance is None else distance, sum(one.merged_tokens))


def _all_weighted(statistics: ActivationStatistics) -> bool:
    return all(site.metric is not None for site in statistics.sites)


def _of_tokens(points: Sequence[LeverMeasurement], merged: tuple[int, ...]) -> list[LeverMeasurement]:
    return [point for point in points if point.merged_tokens == merged]


def _distance(near: Sequence[LeverMeasurement], widths: Sequence[int]) -> float | None:
    return _between([(sum(point.widths), point.distance) for point in near], sum(widths))


def _between(known: Sequence[tuple[int, float]], neurons: int) -> float | None:
    """Return a value interpolated between measured models by their neurons; None outside of the measured ones."""
    for (fewer, first), (more, second) in pairwise(sorted(known)):
        if fewer <= neurons <= more:
            return first + (neurons - fewer) / max(more - fewer, 1) * (second - first)
    return None
