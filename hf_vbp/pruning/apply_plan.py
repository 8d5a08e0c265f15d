"""Apply a pruning plan to a model."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.source import Source
from hf_vbp.compensation.base import compensate
from hf_vbp.modeling.config_record import record_pruning
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.modeling.shared_copy import copy_model, copy_sharing_tensors
from hf_vbp.pruning.damage import DamagePrediction
from hf_vbp.pruning.make_plan import FittedPlan, NewWeights, check_provided, statistics_digest
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.pruning.plan_agreement import check_plan_of_model, check_prediction
from hf_vbp.pruning.refit import refit_mixed_sites, sites_to_refit, warn_without_refit
from hf_vbp.pruning.restored import restored_on_failure
from hf_vbp.pruning.site_surgery import Modules, prune_site
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.token_merging.merge_tokens import merge_tokens

ModelT = TypeVar("ModelT", bound=nn.Module)


@overload
def apply_plan(
    model: PreparedModel,
    plan: PruningPlan,
    statistics: ActivationStatistics,
    *,
    inplace: bool = False,
    data: Iterable[Any] | Source | None = None,
    limit: int | None = None,
) -> Any: ...


@overload
def apply_plan(
    model: ModelT,
    plan: PruningPlan,
    statistics: ActivationStatistics,
    *,
    inplace: bool = False,
    data: Iterable[Any] | Source | None = None,
    limit: int | None = None,
) -> ModelT: ...


@outside_inference_mode
def apply_plan(
    model: Any,
    plan: PruningPlan,
    statistics: ActivationStatistics,
    *,
    inplace: bool = False,
    data: Iterable[Any] | Source | None = None,
    limit: int | None = None,
) -> Any:
    """Apply a pruning plan, with the tokens that it merges. Returns a new model unless ``inplace=True``.

    Rows K of ``W1`` and ``b1`` are kept; ``W2`` and ``b2`` are those of the compensation, in the paper (section 3.3)
    ``W2' = W2[:, K]`` and ``b2' = b2 + W2[:, P] mean_P``. The compensation is computed in float64 and cast once to the
    model's dtype.

    Args:
        model: The dense model that the plan was made for, in fp32, bf16 or fp16, on any one device; or the result of
            :func:`hf_vbp.adapters.prepare`.
        plan: The kept neurons.
        statistics: The statistics that the plan was made from, for the compensation.
        inplace: Whether to change ``model`` itself, MLP by MLP. A failure or an interrupt leaves the model unchanged;
            until the end, replaced weights of more than 256 MB are kept in a temporary file (those of a GPU in the
            memory of the CPU). Otherwise a copy is made that never holds the dense MLPs, so that it takes the memory
            of the pruned model only.
        data: Images, as for :func:`hf_vbp.prune`. The first one verifies the structure of the model. Where a
            normalization inside the MLPs mixes their neurons (GRN, LayerNorm), ``fc2`` is refitted by a pass over the
            images.
        limit: Stop this pass after so many images.

    Returns:
        The pruned model, of the same class; its config records the widths, so ``save_pretrained`` writes a
        checkpoint that loads again.

    Raises:
        PlanError: The plan belongs to another model, was made from other statistics, or its cost or predicted output
            error is not that of its kept neurons.
        StatisticsError: The statistics belong to another model, or lack something that the compensation needs.
        ConfigurationError: The compensation needs a bias that ``fc2`` does not have.
        DataError: ``data`` hold no images.

    Warns:
        CompensationWarning: The neurons of some MLPs are mixed, and there are no ``data`` to refit them.
    """
    source = None if data is None else Source.of(data)
    prepared = prepare(model, None if source is None else source.first)
    compensation = plan.config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    statistics.check_model(prepared)
    check_provided(statistics, compensation.requires, f"compensation {compensation.name!r}")
    check_plan_of_model(plan, prepared)
    plan.check_statistics(statistics_digest(statistics))
    new, prediction = [], DamagePrediction(statistics.sites)
    for module, planned, weights, site in zip(
        prepared.sites, plan.sites, prepared.weights, statistics.sites, strict=True
    ):
        kept = planned.kept_indices()
        compensated = compensate(compensation, weights, kept, site)
        if plan.predicted:
            prediction.add(site, weights, kept, compensated, module.mixes_neurons)
        new.append(NewWeights.of(compensated, weights, kept, module.fc2.weight.dtype))
    check_prediction(plan, prediction.result())
    return _apply(prepared, new, plan, source, limit, inplace=inplace)


def apply_fitted(
    prepared: PreparedModel,
    fitted: FittedPlan,
    *,
    inplace: bool = False,
    data: Iterable[Any] | Source | None = None,
    limit: int | None = None,
) -> Any:
    """Apply a plan whose compensation was fitted when it was made; see :func:`apply_plan`.

    Args:
        prepared: The dense model that the plan was made for.
        fitted: The plan and the new weights of ``fc2``.
        inplace: Whether to change the model itself.
        data: As for :func:`apply_plan`.
        limit: As for :func:`apply_plan`.
    """
    source = None if data is None else Source.of(data)
    return _apply(prepared, fitted.new, fitted.plan, source, limit, inplace=inplace)


def _apply(
    prepared: PreparedModel,
    new: Sequence[NewWeights],
    plan: PruningPlan,
    source: Source | None,
    limit: int | None,
    *,
    inplace: bool,
) -> Any:
    model, sites = prepared.model, prepared.sites
    smaller: Iterable[Modules] = (
        prune_site(site, kept.kept_indices(), weights.weight, weights.bias)
        for site, kept, weights in zip(sites, plan.sites, new, strict=True)
    )
    if source is None:
        warn_without_refit(prepared, plan.widths)
    elif sites_to_refit(prepared, plan.widths):
        # The refit runs the dense model too, so it needs another one, which shares what is not pruned.
        small = _copy_with(model, sites, list(smaller), shares=inplace)
        _record(small, sites, plan)
        refit_mixed_sites(prepared, small, plan.config, source, limit)
        if not inplace:
            return small
        smaller = [tuple(module for module, _ in site.mlp.modules) for site in find_sites(small)]
    return _insert(model, sites, smaller, plan, inplace=inplace)


def _insert(
    model: ModelT, sites: Sequence[MLPSite], smaller: Iterable[Modules], plan: PruningPlan, *, inplace: bool
) -> ModelT:
    if not inplace:
        pruned = _copy_with(model, sites, list(smaller))
        _finish(pruned, sites, plan)
        return pruned
    modules = {id(module): module for site in sites for module, _ in site.mlp.modules}.values()
    size = sum(tensor.nbytes for module in modules for tensor in module.parameters(recurse=False))
    with restored_on_failure(model, size) as replaced:
        # One MLP after the other, so that few of them are in memory twice.
        for site, new in zip(sites, smaller, strict=True):
            for (module, _), smaller_module in zip(site.mlp.modules, new, strict=True):
                old = copy.copy(module)
                _become(module, smaller_module)
                replaced.release(old, smaller_module)
        _finish(model, sites, plan)
    return model


def _finish(model: Any, sites: Sequence[MLPSite], plan: PruningPlan) -> None:
    if any(site.width < site.intermediate_size for site in plan.sites):
        _record(model, sites, plan)
    if plan.merged_tokens:
        merge_tokens(model, plan.merged_tokens)


def _become(module: nn.Module, new: nn.Module) -> None:
    # The module is changed, not replaced in its parent: the sites refer to it and would keep the dense weights.
    own = vars(module)
    hooks = {name: value for name, value in own.items() if "_hooks" in name}
    own.clear()
    own.update({**vars(new), **hooks})


def _copy_with(model: ModelT, sites: Sequence[MLPSite], modules: Sequence[Modules], *, shares: bool = False) -> ModelT:
    replaced: dict[int, Any] = {
        id(module): replacement
        for site, new in zip(sites, modules, strict=True)
        for (module, _), replacement in zip(site.mlp.modules, new, strict=True)
    }
    # A copy of a model that accelerate prepared is a plain model, not one that computes under autocast.
    with own_precision(model):
        if shares:
            return copy_sharing_tensors(model, replaced)
        # deepcopy uses the entry of its memo for an object instead of copying it, so the dense MLPs are not copied.
        return copy_model(model, replaced)


def _record(model: Any, sites: Sequence[MLPSite], plan: PruningPlan) -> None:
    record_pruning(
        model,
        [site.layout for site in sites],
        plan.dense_widths,
        extra={"criterion": plan.config.criterion, "compensation": plan.config.compensation},
    )
