"""Make a plan from statistics, weights and a configuration."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensated, compensate
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.widths import width_costs
from hf_vbp.criteria.base import Ranking, check_rankings, rank
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.modeling.precision import outside_inference_mode
from hf_vbp.pruning.damage import DamagePrediction
from hf_vbp.pruning.levers import check_levers
from hf_vbp.pruning.meet_budget import Choice, meet_budget
from hf_vbp.pruning.plan import PruningPlan, SitePlan
from hf_vbp.pruning.rounding import measured_rounding, with_rounding
from hf_vbp.statistics.activation_statistics import ActivationStatistics


class NewWeights(NamedTuple):
    """The new weights of ``fc2`` in the dtype of the model.

    Attributes:
        weight: ``(out, kept)``; None where the columns of the kept neurons do not change.
        bias: ``(out,)``, or None.
    """

    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, compensated: Compensated, weights: SiteWeights, kept: Tensor, dtype: torch.dtype) -> "NewWeights":
        """Cast a compensation; unchanged columns are not kept, since those of a large model take much memory."""
        same = torch.equal(compensated.weight, weights.fc2_weight[:, kept])
        bias = compensated.bias
        return cls(None if same else compensated.weight.to(dtype), None if bias is None else bias.to(dtype))


@dataclass(frozen=True, eq=False)
class FittedPlan:
    """A plan with the compensation that its prediction was computed from.

    Attributes:
        plan: The plan.
        new: The new weights of ``fc2`` of each site.
    """

    plan: PruningPlan
    new: tuple[NewWeights, ...]

    def is_of(self, chosen: Choice) -> bool:
        """Return whether this is the plan of a choice."""
        plan = self.plan
        same = (plan.merged_tokens, plan.achieved, plan.latency) == (
            chosen.merged_tokens,
            chosen.achieved,
            chosen.latency,
        )
        kept = (tuple(indices.tolist()) for indices in chosen.kept)
        return same and all(site.kept == own for site, own in zip(plan.sites, kept, strict=True))


@outside_inference_mode
def make_plan(
    model: nn.Module | PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    *,
    rankings: Sequence[Ranking] | None = None,
    progress: Progress | None = None,
) -> PruningPlan:
    """Decide which hidden neurons are kept.

    The paper (section 3.2): the neurons of all sites are ranked in one list, ascending by variance, and the lowest
    share is removed. Ties are broken by the position of the site, then by the index of the neuron, so the same
    statistics give the same plan everywhere. The plan is a pure function of statistics, weights and configuration,
    except that a latency budget and the multiple of ``round_to="auto"`` are measured on this device. Tokens are
    merged only as far as the statistics hold measurements of it
    (:func:`hf_vbp.measure_levers`), or the configuration gives the number.

    Args:
        model: The dense model; it is not changed.
        statistics: Statistics gathered from this model.
        config: Method and budget.
        rankings: Result of :func:`rank_sites` for the same criterion, to make several plans from it.
        progress: For a latency budget: receives the number of finished repetitions of each measurement and an
            estimate of all.

    Returns:
        The plan with the least removal that meets the budget.

    Raises:
        BudgetError: Pruning the MLPs cannot meet the budget; the message reports the share that can be reached.
        StatisticsError: The statistics are of one image only, belong to another model, or lack something that the
            criterion or the compensation needs.
        LatencyError: A latency budget cannot be measured: the times on this machine vary too much.
        ConfigurationError: The configuration has no budget, its compensation does not fit the model, or the rankings
            do not fit the statistics.

    Warns:
        LeverWarning: Tokens may be merged to meet the budget, but the statistics hold too few measurements of it.

    Example:
        >>> plan = hf_vbp.make_plan(model, statistics, hf_vbp.VBPConfig(ratio=0.5))  # doctest: +SKIP
    """
    # A missing budget is reported before the model is verified.
    _ = config.budget
    return fit_plan(prepare(model), statistics, config, rankings=rankings, progress=progress).plan


def fit_plan(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    *,
    rankings: Sequence[Ranking] | None = None,
    fitted: FittedPlan | None = None,
    warns: bool = True,
    progress: Progress | None = None,
) -> FittedPlan:
    """Return the plan together with its fitted compensation; see :func:`make_plan`.

    Args:
        prepared: The dense model.
        statistics: Statistics gathered from it.
        config: Method and budget.
        rankings: As for :func:`make_plan`.
        fitted: A plan that was fitted already, which is returned where it is the chosen one.
        warns: Whether to warn where too little was measured of merged tokens.
        progress: As for :func:`make_plan`.
    """
    compensation = config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    statistics.check_model(prepared)
    check_provided(statistics, compensation.requires, f"compensation {compensation.name!r}")
    merges = check_levers(prepared, config)
    if rankings is None:
        rankings = rank_sites(prepared, statistics, config)
    else:
        check_rankings("the argument `rankings`", rankings, statistics.sites)
    measurements = statistics.measurements_of(config.method) if merges else None
    rounding = measured_rounding(prepared, config, measurements, progress)
    rounded = with_rounding(config, rounding)
    chosen = meet_budget(prepared, rounded, rankings, measurements=measurements, warns=warns, progress=progress)
    if fitted is None or not fitted.is_of(chosen):
        fitted = fit_choice(prepared, statistics, config, rankings, chosen)
    return replace(fitted, plan=replace(fitted.plan, rounding=rounding))


def fit_choice(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    rankings: Sequence[Ranking],
    chosen: Choice,
) -> FittedPlan:
    """Return the plan of kept neurons and merged tokens, with its fitted compensation.

    Args:
        prepared: The dense model.
        statistics: Statistics that hold what the configuration needs.
        config: The configuration that the plan records.
        rankings: Result of :func:`rank_sites`.
        chosen: What is kept and merged.
    """
    compensation = config.make_compensation()
    prediction = DamagePrediction(statistics.sites)
    fitted = []
    for site, module, weights, indices in zip(
        statistics.sites, prepared.sites, prepared.weights, chosen.kept, strict=True
    ):
        compensated = compensate(compensation, weights, indices, site)
        prediction.add(site, weights, indices, compensated, module.mixes_neurons)
        fitted.append(NewWeights.of(compensated, weights, indices, module.fc2.weight.dtype))
    dense, costs = width_costs(prepared), width_costs(prepared, chosen.merged_tokens)
    kept_of_sites = [tuple(site_kept.tolist()) for site_kept in chosen.kept]
    plan = PruningPlan(
        sites=tuple(
            SitePlan(s.name, s.intermediate_size, k) for s, k in zip(prepared.sites, kept_of_sites, strict=True)
        ),
        config=config,
        achieved=chosen.achieved,
        weights=prepared.fingerprint,
        statistics=statistics_digest(statistics),
        threshold=_threshold(rankings, kept_of_sites) if config.scope == "global" else None,
        predicted=prediction.result().to_dict(),
        cost={"dense": dense.dense, "pruned": costs.of([len(kept) for kept in kept_of_sites])},
        latency=chosen.latency,
        merged_tokens=chosen.merged_tokens,
        cost_part=dense.part,
    )
    return FittedPlan(plan, tuple(fitted))


@outside_inference_mode
def rank_sites(
    model: nn.Module | PreparedModel, statistics: ActivationStatistics, config: VBPConfig | None = None
) -> list[Ranking]:
    """Score every hidden neuron of every site; one ranking serves plans for any budget.

    Args:
        model: The dense model; it is not changed.
        statistics: Statistics gathered from this model.
        config: Names the criterion and its options; the budget is not used.

    Raises:
        StatisticsError: The statistics are of one image only, belong to another model, or lack something.
        NonFiniteError: Weights or scores are NaN or infinite.
    """
    prepared = prepare(model)
    criterion = (config or VBPConfig()).make_criterion()
    statistics.check_model(prepared)
    if statistics.images < 2:
        raise StatisticsError("The statistics are of 1 image, but a variance needs at least 2. Gather them from more.")
    check_provided(statistics, criterion.requires, f"criterion {criterion.name!r}")
    return rank(criterion, statistics.sites, prepared.weights)


def check_provided(statistics: ActivationStatistics, requires: Requirements, method: str) -> None:
    """Refuse statistics that lack something that a method needs.

    The output metric and the token weights are gathered only where the model's output allows it, and methods do
    without them, so they are not checked here.

    Args:
        statistics: The statistics.
        requires: The requirements of the method.
        method: Name of the method in the message, for instance ``"criterion 'obs'"``.

    Raises:
        StatisticsError: Something is missing; the message explains how to gather it.
    """
    gathered = statistics.provides | Requirements(output_metric=True, token_weights=True, bias=True)
    missing = (requires - gathered).names()
    if missing:
        raise StatisticsError(
            f"{method} needs {', '.join(missing)}, which the statistics do not hold. Gather them with a configuration "
            "that names this method (hf_vbp.collect_statistics(model, data, config); on the command line hf-vbp stats "
            "with the same --criterion and --compensation)."
        )


@outside_inference_mode
def precompute_scores(
    model: nn.Module | PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Run the expensive part of a criterion once, and store its result in the statistics.

    For ``obs`` this is the elimination of all sites; every later plan with the same options reads the curves instead
    of running the elimination again. Other criteria have no such part, and the statistics are returned unchanged.

    Args:
        model: The dense model; it is not changed.
        statistics: Statistics gathered from it.
        config: Names the criterion and its options; the budget is not used.
        device: Device of the computation; by default that of the statistics.
        progress: Receives the number of finished sites and of all sites.

    Returns:
        New statistics; the argument is not changed.

    Raises:
        StatisticsError: The statistics lack something that the criterion needs, or belong to another model.
        ConfigurationError: The criterion raised an error, or did not return the statistics of each site.
        NonFiniteError: Weights are NaN or infinite.
    """
    prepared = prepare(model)
    criterion = (config or VBPConfig()).make_criterion()
    statistics.check_model(prepared)
    check_provided(statistics, criterion.requires, f"criterion {criterion.name!r}")
    source = f"precompute of criterion {criterion.name!r}"
    with named_in_errors(source, type(criterion)):
        sites = criterion.precompute(statistics.sites, prepared.weights, device=device, progress=progress)
    if not isinstance(sites, Sequence) or [type(site) for site in sites] != [type(site) for site in statistics.sites]:
        raise ConfigurationError(
            f"{source} must return a list of {len(statistics.sites)} SiteStatistics, one per site"
        )
    return replace(statistics, sites=sites)


def statistics_digest(statistics: ActivationStatistics) -> str:
    """Return the sha256 of the means and variances of all sites."""
    digest = hashlib.sha256()
    for site in statistics.sites:
        for tensor in (site.moments.mean, site.moments.m2):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _threshold(rankings: Sequence[Ranking], kept: Sequence[tuple[int, ...]]) -> float | None:
    highest = max(_highest_removed(ranking.scores, indices) for ranking, indices in zip(rankings, kept, strict=True))
    return highest if highest > -float("inf") else None


def _highest_removed(scores: Tensor, kept: tuple[int, ...]) -> float:
    removed: Any = scores.clone()
    removed[list(kept)] = -float("inf")
    return float(removed.max()) if len(removed) else -float("inf")
