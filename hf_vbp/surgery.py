"""A plan and statistics in, a smaller model out; the caller's model stays as it was unless told otherwise."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from hf_vbp.adapters import MLPSite, check_finite_weights, find_sites
from hf_vbp.compensation import compensate
from hf_vbp.criteria import SiteWeights
from hf_vbp.plan import PruningPlan
from hf_vbp.planning import check_bias
from hf_vbp.precision import own_precision

if TYPE_CHECKING:
    from hf_vbp.statistics import ActivationStatistics

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class _Pair:
    fc1: nn.Linear
    fc2: nn.Linear


def apply_plan(
    model: ModelT, plan: PruningPlan, statistics: "ActivationStatistics", *, inplace: bool = False
) -> ModelT:
    """Remove the neurons that a plan names and fold what it says into the weights that stay.

    The paper (section 3.3): ``b2' = b2 + W2[:, P] mean_P``, ``W2' = W2[:, K]``, rows K of ``W1`` and ``b1``.
    Folding happens in float64 and is cast once to the model's dtype.

    Args:
        model: The dense model that the plan was made for, in fp32, bf16 or fp16, on any one device.
        plan: What stays.
        statistics: The statistics that the plan was made from, for the compensation.
        inplace: Whether to change ``model`` itself. Otherwise a copy is made that never holds the dense MLPs,
            so that it costs the size of the pruned model only.

    Returns:
        The pruned model, of the same class; its config holds the widths, so ``save_pretrained`` writes a
        checkpoint that loads again.

    Raises:
        PlanError: The plan belongs to another model.
        StatisticsMismatchError: The statistics belong to another model.
        ConfigurationError: The compensation needs a bias that ``fc2`` does not have.
    """
    sites = find_sites(model)
    check_finite_weights(sites)
    check_bias(sites, plan.compensation)
    statistics.check_model(model)
    plan.check_model(statistics.fingerprints["weights"], [(site.name, site.intermediate_size) for site in sites])
    # All new linears are made before the first is put in, so a failure leaves the model as it was.
    pairs = [_prune_site(site, index, plan, statistics) for index, site in enumerate(sites)]
    if inplace:
        for site, pair in zip(sites, pairs, strict=True):
            model.set_submodule(site.fc1_name, pair.fc1)
            model.set_submodule(site.fc2_name, pair.fc2)
        pruned = model
    else:
        pruned = _copy_with(model, sites, pairs)
    _record(pruned, plan)
    return pruned


def _prune_site(site: MLPSite, index: int, plan: PruningPlan, statistics: "ActivationStatistics") -> _Pair:
    kept = plan.sites[index].kept_indices()
    fc2_weight, fc2_bias = compensate(
        plan.compensation, SiteWeights.of(site), kept, statistics.sites[index], **plan.options.get("compensation", {})
    )
    rows = kept.to(site.fc1.weight.device)
    fc1_bias = None if site.fc1.bias is None else site.fc1.bias.detach()[rows]
    return _Pair(
        _linear_like(site.fc1, site.fc1.weight.detach()[rows], fc1_bias), _linear_like(site.fc2, fc2_weight, fc2_bias)
    )


def _linear_like(old: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    # Built on meta, so that no memory is filled with random numbers first.
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=old.bias is not None, device="meta", dtype=old.weight.dtype)
    for name, value in (("weight", weight), ("bias", bias)):
        source = getattr(old, name)
        if source is not None and value is not None:
            tensor = value.to(device=source.device, dtype=source.dtype).contiguous()
            setattr(new, name, nn.Parameter(tensor, requires_grad=source.requires_grad))
    return new.train(old.training)


def _copy_with(model: ModelT, sites: tuple[MLPSite, ...], pairs: list[_Pair]) -> ModelT:
    # deepcopy takes what its memo holds for an object instead of copying it: the dense linears are never copied.
    memo: dict[int, Any] = {}
    for site, pair in zip(sites, pairs, strict=True):
        memo[id(site.fc1)] = pair.fc1
        memo[id(site.fc2)] = pair.fc2
    # A copy of a model that accelerate prepared is a plain model, not one that computes under autocast.
    with own_precision(model):
        return copy.deepcopy(model, memo)


def _record(model: Any, plan: PruningPlan) -> None:
    from hf_vbp.checkpoint import write_widths

    # Pruned a second time, a model still tells what it was before the first.
    earlier = (vars(model.config).get("vbp") or {}).get("dense_widths", plan.dense_widths)
    write_widths(
        model.config,
        plan.widths,
        dense_widths=earlier,
        extra={"criterion": plan.criterion, "compensation": plan.compensation},
    )
