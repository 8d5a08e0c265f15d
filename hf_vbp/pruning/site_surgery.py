"""New modules of an MLP with fewer hidden neurons."""

from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.site_weights import is_transposed
from hf_vbp.compensation.base import Compensated
from hf_vbp.modeling.modeling_hf_vbp import take_neurons

Modules = tuple[Any, ...]
"""The modules of one MLP, in the order of ``MLP.modules``."""


def prune_site(site: MLPSite, kept: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> Modules:
    """Return copies of the modules of a site with some of its hidden neurons.

    Args:
        site: The dense site; it is not changed.
        kept: ``(kept,)`` int64, ascending.
        weight: ``(out, kept)``, the new weight of ``fc2``; None keeps the columns of the kept neurons.
        bias: ``(out,)``, its new bias; None keeps it.
    """
    modules = [take_neurons(site.mlp, kept, module, role) for module, role in site.mlp.modules]
    for (_, role), new in zip(site.mlp.modules, modules, strict=True):
        if role == "between":
            _rescale(new, site.intermediate_size, len(kept))
    down = modules[len(site.mlp.ups) + len(site.mlp.between)]
    _set_weights(down, modules[-1] if site.mlp.after is not None else None, weight, bias)
    return tuple(modules)


def set_down(site: MLPSite, compensated: Compensated) -> None:
    """Replace the weights of ``fc2`` of a pruned model, in place.

    Args:
        site: A site of the pruned model.
        compensated: The new weights, for the hidden neurons that it has.
    """
    _set_weights(site.mlp.down, site.mlp.after, compensated.weight, compensated.bias)


def _set_weights(down: Any, after: Any, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
    if weight is not None:
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
