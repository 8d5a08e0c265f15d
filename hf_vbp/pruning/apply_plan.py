"""Apply a pruning plan to a model."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.site_weights import is_transposed
from hf_vbp.compensation.base import Compensated, compensate
from hf_vbp.modeling.config_record import record_pruning
from hf_vbp.modeling.modeling_hf_vbp import take_neurons
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.pruning.make_plan import FittedPlan, cast, check_provided, statistics_digest
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.statistics.activation_statistics import ActivationStatistics

ModelT = TypeVar("ModelT", bound=nn.Module)


# The new modules of one MLP, in the order of MLP.modules.
_Modules = tuple[Any, ...]


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
        inplace: Whether to change ``model`` itself, MLP by MLP, which takes little more memory than the new weights
            of ``fc2``. Otherwise a copy is made that never holds the dense MLPs, so that it takes the memory of the
            pruned model only.

    Returns:
        The pruned model, of the same class; its config records the widths, so ``save_pretrained`` writes a
        checkpoint that loads again.

    Raises:
        PlanError: The plan belongs to another model, or was made from other statistics.
        StatisticsError: The statistics belong to another model, or lack something that the compensation needs.
        ConfigurationError: The compensation needs a bias that ``fc2`` does not have.
    """
    prepared = prepare(model)
    compensation = plan.config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    statistics.check_model(prepared)
    check_provided(statistics, compensation.requires, f"compensation {compensation.name!r}")
    plan.check_model(prepared.fingerprint, [(site.name, site.intermediate_size) for site in prepared.sites])
    plan.check_statistics(statistics_digest(statistics))
    compensated = [
        cast(compensate(compensation, weights, kept.kept_indices(), site), module.fc2.weight.dtype)
        for module, kept, weights, site in zip(
            prepared.sites, plan.sites, prepared.weights, statistics.sites, strict=True
        )
    ]
    return _insert(model, prepared.sites, compensated, plan, inplace=inplace)


def apply_fitted(model: ModelT, sites: Sequence[MLPSite], fitted: FittedPlan, *, inplace: bool = False) -> ModelT:
    """Apply a plan whose compensation was fitted when it was made; see :func:`apply_plan`.

    Args:
        model: The dense model that the plan was made for.
        sites: Its MLP sites.
        fitted: The plan and the new weights of ``fc2``.
        inplace: Whether to change ``model`` itself.
    """
    return _insert(model, sites, fitted.compensated, fitted.plan, inplace=inplace)


def _insert(
    model: ModelT, sites: Sequence[MLPSite], compensated: Sequence[Compensated], plan: PruningPlan, *, inplace: bool
) -> ModelT:
    smaller = (
        _prune_site(site, kept.kept_indices(), new)
        for site, kept, new in zip(sites, plan.sites, compensated, strict=True)
    )
    if inplace:
        # Everything that can fail was computed before. Site by site, so that no second set of MLPs is ever held.
        for site, modules in zip(sites, smaller, strict=True):
            for (module, _), new in zip(site.mlp.modules, modules, strict=True):
                _become(module, new)
        pruned = model
    else:
        pruned = _copy_with(model, sites, list(smaller))
    _record(pruned, sites, plan)
    return pruned


def _become(module: nn.Module, new: nn.Module) -> None:
    # Not replaced in its parent: then whoever else holds the module, as the sites do, would keep the dense weights.
    own = vars(module)
    hooks = {name: value for name, value in own.items() if "_hooks" in name}
    own.clear()
    own.update({**vars(new), **hooks})


def _prune_site(site: MLPSite, kept: torch.Tensor, compensated: Compensated) -> _Modules:
    modules = [take_neurons(site.mlp, kept, module, role) for module, role in site.mlp.modules]
    for (_, role), new in zip(site.mlp.modules, modules, strict=True):
        if role == "between":
            _rescale(new, site.intermediate_size, len(kept))
    down = modules[len(site.mlp.ups) + len(site.mlp.between)]
    _set_weights(down, modules[-1] if site.mlp.after is not None else None, compensated)
    return tuple(modules)


def set_down(site: MLPSite, compensated: Compensated) -> None:
    """Replace the weights of ``fc2`` of a pruned model, in place.

    Args:
        site: A site of the pruned model.
        compensated: The new weights, for the hidden neurons that it has.
    """
    _set_weights(site.mlp.down, site.mlp.after, compensated)


def _set_weights(down: Any, after: Any, compensated: Compensated) -> None:
    weight, bias = compensated.weight, compensated.bias
    transposed = weight.T if is_transposed(down) else weight
    _assign(down, "weight", transposed.reshape(down.weight.shape))
    if bias is not None and after is not None:
        if down.bias is None:
            _assign(after, "running_mean", -bias)
        else:
            bias = bias + after.running_mean.to(bias)
    if bias is not None and down.bias is not None:
        _assign(down, "bias", bias)


def _rescale(module: Any, dense: int, kept: int) -> None:
    # GRN divides by the mean norm over the neurons. With the same sum over fewer neurons the mean is larger.
    if type(module).__name__.endswith(("GRN", "GlobalResponseNorm")):
        name = "weight" if "weight" in module._parameters else "gamma"
        _assign(module, name, module._parameters[name].detach().double().cpu() * (dense / max(kept, 1)))


def _assign(module: Any, name: str, value: torch.Tensor) -> None:
    old = getattr(module, name)
    tensor = value.to(device=old.device, dtype=old.dtype).contiguous()
    if isinstance(old, nn.Parameter):
        setattr(module, name, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(module, name, tensor)


def _copy_with(model: ModelT, sites: Sequence[MLPSite], modules: Sequence[_Modules]) -> ModelT:
    # deepcopy uses the entry of its memo for an object instead of copying it, so the dense MLPs are not copied.
    memo: dict[int, Any] = {}
    for site, new in zip(sites, modules, strict=True):
        for (module, _), replacement in zip(site.mlp.modules, new, strict=True):
            memo[id(module)] = replacement
    # A copy of a model that accelerate prepared is a plain model, not one that computes under autocast.
    with own_precision(model):
        return copy.deepcopy(model, memo)


def _record(model: Any, sites: Sequence[MLPSite], plan: PruningPlan) -> None:
    record_pruning(
        model,
        [site.layout for site in sites],
        plan.dense_widths,
        extra={"criterion": plan.config.criterion, "compensation": plan.config.compensation},
    )
