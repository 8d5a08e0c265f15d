"""Statistics, weights and a budget in, a plan out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prunable import check_finite_weights
from hf_vbp.adapters.registry import find_sites
from hf_vbp.compensation.compensate import COMPENSATIONS
from hf_vbp.config.budget import COSTS, Budget
from hf_vbp.criteria.base import CRITERIA, Ranking, SiteWeights, rank
from hf_vbp.criteria.elimination import Progress
from hf_vbp.criteria.obs import curve_options, elimination_curves
from hf_vbp.data.lazy_sequence import LazySequence
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.pruning.damage import predict_damage
from hf_vbp.pruning.plan import PruningPlan, SitePlan, known
from hf_vbp.pruning.removal_order import Limits, RemovalOrder

if TYPE_CHECKING:
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

# Options of criterion obs that its curves depend on.
CURVE_OPTIONS = ("metric", "ridge", "token_weights")
# From widths to the fraction of the dense latency that a model of such widths needs.
LatencyOf = Callable[[Sequence[int]], float]


def make_plan(
    model: nn.Module,
    statistics: "ActivationStatistics",
    budget: Budget,
    *,
    criterion: str = "variance",
    compensation: str = "mean",
    scope: str = "global",
    limits: Limits | None = None,
    latency_of: LatencyOf | None = None,
    criterion_options: Mapping[str, Any] | None = None,
    compensation_options: Mapping[str, Any] | None = None,
    rankings: Sequence[Ranking] | None = None,
) -> PruningPlan:
    """Decide which hidden neurons stay.

    The paper (section 3.2): the neurons of all sites go into one list, ascending by variance, and the lowest
    share is removed. Ties go by the position of the site, then by the index of the neuron, so the same
    statistics give the same plan everywhere.

    Args:
        model: The dense model; it is only read.
        statistics: What was gathered on this model.
        budget: How much must go, or what must be left.
        criterion: A key of :data:`hf_vbp.criteria.CRITERIA`. The default is the paper's, which any statistics
            serve; ``"obs"`` with ``compensation="linear"`` wins, and needs covariances.
        compensation: A key of :data:`hf_vbp.compensation.compensate.COMPENSATIONS`, applied when the plan is.
        scope: ``"global"`` or ``"layer"``.
        limits: Floor per site and rounding of widths.
        latency_of: For a latency budget, what measures it on this device
            (:func:`hf_vbp.costs.counts.latency_of_widths`).
        criterion_options: Options of the criterion.
        compensation_options: Options of the compensation; they go into the plan, and apply when it is applied.
        rankings: What :func:`rank_sites` returned for the same criterion, where several plans are made.

    Returns:
        The plan with the least removal that meets the budget.

    Raises:
        BudgetError: Pruning the MLPs cannot meet the budget; the message says what can be reached.
        StatisticsError: The statistics saw one image only, or belong to another model.
        ConfigurationError: Criterion, compensation or scope is unknown, or does not fit the model.
    """
    known("compensation", compensation, list(COMPENSATIONS))
    sites = find_sites(model)
    check_bias(sites, compensation)
    repair = dict(compensation_options or {})
    if rankings is None:
        rankings = rank_sites(model, statistics, criterion, **(criterion_options or {}))
    order = RemovalOrder(rankings, scope=scope, limits=limits)
    cost = _cost(model, sites, statistics, budget, latency_of)
    cut = order.cut_for(budget, cost, ceiling=_ceiling(budget, order, cost))
    indices = order.kept(cut)
    damage = predict_damage(compensation, statistics.sites, _Weights(sites), indices, options=repair)
    kept = [tuple(site_indices.tolist()) for site_indices in indices]
    return PruningPlan(
        sites=tuple(SitePlan(s.name, s.intermediate_size, k) for s, k in zip(sites, kept, strict=True)),
        criterion=criterion,
        compensation=compensation,
        scope=scope,
        budget=budget.with_achieved(cost(order.widths(cut))),
        weights=statistics.fingerprints["weights"],
        statistics=_digest(statistics),
        minimum_width=order.limits.minimum_width,
        round_to=order.limits.round_to,
        threshold=_threshold(rankings, kept) if scope == "global" else None,
        predicted=damage.to_dict(),
        options={"criterion": dict(criterion_options or {}), "compensation": repair},
    )


def rank_sites(model: nn.Module, statistics: "ActivationStatistics", criterion: str, **options: Any) -> list[Ranking]:
    """Score every hidden neuron of every site; one ranking serves plans for any budget.

    Args:
        model: The dense model; it is only read.
        statistics: What was gathered on this model.
        criterion: A key of :data:`hf_vbp.criteria.CRITERIA`.
        options: What the criterion takes.

    Raises:
        ConfigurationError: The criterion is unknown.
        StatisticsError: The statistics saw one image only, or belong to another model, or lack what is needed.
        NonFiniteError: Weights or scores hold NaN or infinity.
    """
    known("criterion", criterion, list(CRITERIA))
    sites = find_sites(model)
    check_finite_weights(sites)
    statistics.check_model(model)
    if statistics.images < 2:
        raise StatisticsError("The statistics saw 1 image, but at least 2 are needed to tell what varies.")
    if criterion == "obs" and "curves" not in options:
        chosen = {name: value for name, value in options.items() if name in CURVE_OPTIONS}
        options["curves"] = statistics.curves(curve_options(statistics.sites, **chosen))
    return rank(criterion, statistics.sites, _Weights(sites), **options)


def with_curves(
    model: nn.Module,
    statistics: "ActivationStatistics",
    *,
    device: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> "ActivationStatistics":
    """Run the greedy elimination of criterion ``obs`` once, and keep its curves with the statistics.

    Every later plan by ``obs`` with the same options reads them instead of running it again.

    Args:
        model: The dense model; it is only read.
        statistics: What was gathered on it, with covariances.
        device: Where to compute; by default where the statistics are.
        progress: Called with the number of sites done and of all.
        options: ``metric``, ``ridge`` and ``token_weights`` of :func:`hf_vbp.criteria.obs.obs`.

    Returns:
        New statistics that hold the curves; the argument is not changed.

    Raises:
        StatisticsError: The statistics hold no covariances, or belong to another model.
        ConfigurationError: An option cannot be meant.
        NonFiniteError: Weights hold NaN or infinity.
    """
    sites = find_sites(model)
    check_finite_weights(sites)
    statistics.check_model(model)
    chosen = curve_options(statistics.sites, **options)
    curves = elimination_curves(statistics.sites, _Weights(sites), **chosen, device=device, progress=progress)
    held = tuple(replace(site, curve=curve) for site, curve in zip(statistics.sites, curves, strict=True))
    return replace(statistics, sites=held, fingerprints={**statistics.fingerprints, "curves": chosen})


class _Weights(LazySequence[SiteWeights]):
    """The float64 weights of all sites, copied one at a time: all at once would take more than the model itself."""

    def __init__(self, sites: Sequence[MLPSite]) -> None:
        self._sites = sites

    def __len__(self) -> int:
        return len(self._sites)

    def item(self, index: int) -> SiteWeights:
        return SiteWeights.of(self._sites[index])


def check_bias(sites: Sequence[MLPSite], compensation: str) -> None:
    """Refuse a compensation that has nowhere to fold the mean.

    Raises:
        ConfigurationError: ``fc2`` of a site has no bias and the compensation needs one. None is added, since
            the stock class of the model would not build it on reload.
    """
    if compensation != "none":
        for site in sites:
            if site.fc2.bias is None:
                raise ConfigurationError(
                    f"{site.name}: fc2 has no bias, so compensation {compensation!r} has nowhere to fold the mean "
                    'of the removed neurons. Use compensation="none".'
                )


def _digest(statistics: "ActivationStatistics") -> str:
    digest = hashlib.sha256()
    for site in statistics.sites:
        for tensor in (site.moments.mean, site.moments.m2):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _threshold(rankings: Sequence[Ranking], kept: Sequence[tuple[int, ...]]) -> float | None:
    removed = []
    for ranking, indices in zip(rankings, kept, strict=True):
        gone = ranking.scores.clone()
        gone[list(indices)] = -float("inf")
        removed.append(float(gone.max()) if len(gone) else -float("inf"))
    highest = max(removed)
    return highest if highest > -float("inf") else None


def _cost(
    model: nn.Module,
    sites: Sequence[MLPSite],
    statistics: "ActivationStatistics",
    budget: Budget,
    latency_of: LatencyOf | None,
) -> LatencyOf:
    dense = [site.intermediate_size for site in sites]
    if budget.kind == "ratio":
        return lambda widths: (sum(dense) - sum(widths)) / sum(dense)
    if budget.kind == "latency":
        if latency_of is None:
            raise ConfigurationError(
                "A latency budget needs latency_of; hf_vbp.costs.counts.latency_of_widths makes one."
            )
        return latency_of
    from hf_vbp.costs.counts import count_macs, count_parameters

    if budget.kind == "parameters":
        total, each = count_parameters(model), [site.parameters_per_neuron for site in sites]
    else:
        total = count_macs(model)
        tokens = [site.moments.count // max(statistics.images, 1) for site in statistics.sites]
        each = [t * (s.fc1.in_features + s.fc2.out_features) for t, s in zip(tokens, sites, strict=True)]

    def left(widths: Sequence[int]) -> float:
        removed = sum((full - width) * unit for full, width, unit in zip(dense, widths, each, strict=True))
        return float((total - removed) / total)

    return left


def _ceiling(budget: Budget, order: RemovalOrder, cost: LatencyOf) -> str:
    if budget.removes:
        return f"The floor of {order.limits.minimum_width} neurons per site keeps the rest; lower it or the ratio."
    held = cost(order.dense_widths) - cost(order.widths(order.cuts[-1]))
    return f"The MLPs hold a share of {held:.2f} of the {COSTS[budget.kind]} that can go; ask for more to be left."
