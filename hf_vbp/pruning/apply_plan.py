"""Apply a pruning plan to a model."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import prepare
from hf_vbp.compensation.base import Compensated, compensate
from hf_vbp.modeling.config_record import record_pruning
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.pruning.make_plan import FittedPlan, check_provided
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.statistics.activation_statistics import ActivationStatistics

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class _Pair:
    fc1: nn.Linear
    fc2: nn.Linear


@outside_inference_mode
def apply_plan(model: ModelT, plan: PruningPlan, statistics: ActivationStatistics, *, inplace: bool = False) -> ModelT:
    """Apply a pruning plan. Returns a new model unless ``inplace=True``.

    Rows K of ``W1`` and ``b1`` are kept; ``W2`` and ``b2`` are those of the compensation, in the paper (section 3.3)
    ``W2' = W2[:, K]`` and ``b2' = b2 + W2[:, P] mean_P``. The compensation is computed in float64 and cast once to the
    model's dtype.

    Args:
        model: The dense model that the plan was made for, in fp32, bf16 or fp16, on any one device.
        plan: The kept neurons.
        statistics: The statistics that the plan was made from, for the compensation.
        inplace: Whether to change ``model`` itself. Otherwise a copy is made that never holds the dense MLPs,
            so that it takes the memory of the pruned model only.

    Returns:
        The pruned model, of the same class; its config records the widths, so ``save_pretrained`` writes a
        checkpoint that loads again.

    Raises:
        PlanError: The plan belongs to another model.
        StatisticsError: The statistics belong to another model, or lack something that the compensation needs.
        ConfigurationError: The compensation needs a bias that ``fc2`` does not have.
    """
    prepared = prepare(model)
    compensation = plan.config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    statistics.check_model(prepared)
    check_provided(statistics, compensation.requires, f"compensation {compensation.name!r}")
    plan.check_model(prepared.fingerprint, [(site.name, site.intermediate_size) for site in prepared.sites])
    # All new linears are made before the first one is inserted, so that a failure leaves the model unchanged.
    pairs = [
        _prune_site(module, kept.kept_indices(), compensate(compensation, weights, kept.kept_indices(), site))
        for module, kept, weights, site in zip(
            prepared.sites, plan.sites, prepared.weights, statistics.sites, strict=True
        )
    ]
    return _insert(model, prepared.sites, pairs, plan, inplace=inplace)


def apply_fitted(model: ModelT, sites: Sequence[MLPSite], fitted: FittedPlan, *, inplace: bool = False) -> ModelT:
    """Apply a plan whose compensation was fitted when it was made; see :func:`apply_plan`.

    Args:
        model: The dense model that the plan was made for.
        sites: Its MLP sites.
        fitted: The plan and the new weights of ``fc2``.
        inplace: Whether to change ``model`` itself.
    """
    pairs = [
        _prune_site(module, kept.kept_indices(), compensated)
        for module, kept, compensated in zip(sites, fitted.plan.sites, fitted.compensated, strict=True)
    ]
    return _insert(model, sites, pairs, fitted.plan, inplace=inplace)


def _insert(
    model: ModelT, sites: Sequence[MLPSite], pairs: Sequence[_Pair], plan: PruningPlan, *, inplace: bool
) -> ModelT:
    if inplace:
        for site, pair in zip(sites, pairs, strict=True):
            model.set_submodule(site.fc1_name, pair.fc1)
            model.set_submodule(site.fc2_name, pair.fc2)
        pruned = model
    else:
        pruned = _copy_with(model, sites, pairs)
    _record(pruned, sites, plan)
    return pruned


def _prune_site(site: MLPSite, kept: torch.Tensor, compensated: Compensated) -> _Pair:
    rows = kept.to(site.fc1.weight.device)
    fc1_bias = None if site.fc1.bias is None else site.fc1.bias.detach()[rows]
    return _Pair(
        _linear_like(site.fc1, site.fc1.weight.detach()[rows], fc1_bias),
        _linear_like(site.fc2, compensated.weight, compensated.bias),
    )


def _linear_like(old: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    # Built small and on meta: no memory is filled with random numbers, and a width of 0 gives no warning.
    new = nn.Linear(1, 1, bias=old.bias is not None, device="meta", dtype=old.weight.dtype)
    new.out_features, new.in_features = weight.shape
    for name, value in (("weight", weight), ("bias", bias)):
        source = getattr(old, name)
        if source is not None and value is not None:
            tensor = value.to(device=source.device, dtype=source.dtype).contiguous()
            setattr(new, name, nn.Parameter(tensor, requires_grad=source.requires_grad))
    return new.train(old.training)


def _copy_with(model: ModelT, sites: Sequence[MLPSite], pairs: Sequence[_Pair]) -> ModelT:
    # deepcopy uses the entry of its memo for an object instead of copying it, so the dense linears are not copied.
    memo: dict[int, Any] = {}
    for site, pair in zip(sites, pairs, strict=True):
        memo[id(site.fc1)] = pair.fc1
        memo[id(site.fc2)] = pair.fc2
    # A copy of a model that accelerate prepared is a plain model, not one that computes under autocast.
    with own_precision(model):
        return copy.deepcopy(model, memo)


def _record(model: Any, sites: Sequence[MLPSite], plan: PruningPlan) -> None:
    record_pruning(
        model,
        [(site.fc1_name, site.fc2_name) for site in sites],
        plan.dense_widths,
        extra={"criterion": plan.config.criterion, "compensation": plan.config.compensation},
    )
