"""Reject models that cannot be pruned as they are (compiled, wrapped, sharded, offloaded, quantized, masked)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.modalities import generates_text, language_model_message
from hf_vbp.errors import NonFiniteError, UnsupportedModelError
from hf_vbp.files.layout import MODELING_MODULE

_PLAIN = (nn.Parameter, torch.Tensor)


def check_prunable(model: Any, *, without_weights: bool = False) -> None:
    """Refuse a model that is not a whole, plain transformers model. The model is only read.

    Args:
        model: The model to prune.
        without_weights: Whether a model on the meta device is accepted, of which only the structure is used.

    Raises:
        UnsupportedModelError: Not a transformers model, or one that is compiled, wrapped for distributed training,
            sharded, offloaded, quantized, reparametrized, or holds PEFT adapters; also a class that transformers
            could not load again.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"Expected a transformers model, got {type(model).__name__}. "
            "Load it with AutoModelForImageClassification.from_pretrained."
        )
    _refuse_compiled(model)
    _refuse_wrappers(model)
    if not hasattr(model, "config") or not hasattr(model.config, "model_type"):
        raise UnsupportedModelError(
            f"Expected a transformers model with a config, got {type(model).__name__}. "
            "Load it with AutoModelForImageClassification.from_pretrained."
        )
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            "The model is quantized, so its weights cannot be changed neuron by neuron. Load it without "
            "quantization_config, prune it, and quantize the pruned model."
        )
    _refuse_adapters(model)
    _refuse_spread(model, without_weights)
    _refuse_special_parameters(model)
    _refuse_reparametrized(model)
    _refuse_unknown_class(model)
    _refuse_language_model(model)


def _refuse_language_model(model: Any) -> None:
    name = type(model).__name__
    if generates_text(name, model.config):
        raise UnsupportedModelError(language_model_message(name, model))


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        yield (f"The module {name}" if name else "The model"), module


def _refuse_compiled(model: nn.Module) -> None:
    for label, module in _named(model):
        if "_orig_mod" in module._modules:
            raise UnsupportedModelError(
                f"{label} is compiled by torch.compile. Prune the original module (its attribute _orig_mod), then "
                "compile the result."
            )
        forward = vars(module).get("forward")
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(forward, "_torchdynamo_orig_callable"):
            raise UnsupportedModelError(
                f"{label} is compiled in place (compile() of the module, or a compiled forward). Prune the model "
                "before it is compiled, then compile the result."
            )


def _refuse_wrappers(model: nn.Module) -> None:
    for label, module in _named(model):
        bases = {cls.__name__ for cls in type(module).__mro__}
        parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
        if parallel or "FullyShardedDataParallel" in bases:
            raise UnsupportedModelError(
                f"{label} is wrapped in {type(module).__name__}. Pass the model inside "
                "(accelerator.unwrap_model(model)), with whole weights."
            )
        if "FSDPModule" in bases:
            raise UnsupportedModelError(
                f"{label} is sharded by fully_shard (FSDP2). Prune the model before it is sharded, or gather its "
                "weights into a plain model first."
            )


def _refuse_adapters(model: nn.Module) -> None:
    adapted = any("BaseTunerLayer" in {cls.__name__ for cls in type(module).__mro__} for module in model.modules())
    if adapted or hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            "The model holds PEFT adapters (for instance LoRA layers). Merge them first (model.merge_and_unload() of "
            "the PEFT model), and prune the result."
        )


def _refuse_spread(model: nn.Module, without_weights: bool) -> None:
    devices = {str(parameter.device) for parameter in model.parameters()}
    mapped = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if ("meta" in devices and not without_weights) or "disk" in mapped:
        raise UnsupportedModelError(
            "Some weights of the model are not in memory (meta or offloaded). Load it without offloading to prune it."
        )
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"The model is spread over {', '.join(sorted(devices))}. Load it on one device to prune it."
        )
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise UnsupportedModelError(
            "Hooks of accelerate move the tensors of the model between devices while it runs. Load it on one "
            "device without offloading, or call accelerate.hooks.remove_hook_from_module(model, recurse=True)."
        )


def _refuse_special_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            raise UnsupportedModelError(
                "The weights of the model are partitioned by DeepSpeed ZeRO. Gather them into a plain model, and "
                "prune that one."
            )
        kind = next((type(t).__name__ for t in (parameter, parameter.data) if type(t) not in _PLAIN), None)
        if kind == "DTensor":
            raise UnsupportedModelError(
                f"The weight {name} is distributed over processes (DTensor: FSDP2 or tensor parallel). Prune the "
                "model before it is sharded, or gather its weights into a plain model first."
            )
        if kind is not None:
            raise UnsupportedModelError(
                f"The weight {name} is a {kind}, expected a plain torch tensor. If the model is quantized, prune the "
                "unquantized model, and quantize the result."
            )
        if parameter.is_inference():
            raise UnsupportedModelError(
                f"The weight {name} was created inside torch.inference_mode(), so no gradient can be computed "
                "through it. Load the model outside of that context."
            )


def _refuse_reparametrized(model: nn.Module) -> None:
    from torch.nn.utils import parametrize, prune
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for label, module in _named(model):
        hooks = list(module._forward_pre_hooks.values())
        if any(isinstance(hook, prune.BasePruningMethod) for hook in hooks):
            raise UnsupportedModelError(
                f"{label} has a mask of torch.nn.utils.prune. Make it permanent first "
                "(torch.nn.utils.prune.remove(module, name)), or remove it."
            )
        if any(isinstance(hook, WeightNorm | SpectralNorm) for hook in hooks) or parametrize.is_parametrized(module):
            raise UnsupportedModelError(
                f"{label} computes its weight from other tensors (weight_norm, spectral_norm or a parametrization). "
                "Make the weight a plain parameter first (torch.nn.utils.parametrize.remove_parametrizations, "
                "remove_weight_norm or remove_spectral_norm)."
            )


def _refuse_unknown_class(model: Any) -> None:
    """Refuse a user's class on a config of transformers: a checkpoint could not be loaded as that class again."""
    cls = type(model)
    # A family with a new config class is registered with transformers by its author. Classes of the file
    # that travels with pruned checkpoints have the names of those that they derive from.
    remote = cls.__module__.rpartition(".")[2] == MODELING_MODULE
    if remote or _is_stock(cls) or not _is_stock(type(model.config)):
        return
    stock = [base for base in cls.__mro__ if issubclass(base, nn.Module) and _is_stock(base)]
    bases = [base for base in stock if "PreTrainedModel" not in base.__name__]
    if bases:
        name = bases[0].__name__
        advice = f"Copy its weights into {name}(model.config) with load_state_dict, and prune that model."
    else:
        advice = "Prune the transformers model inside it."
    raise UnsupportedModelError(
        f"{cls.__name__} ({cls.__module__}) is not a class of transformers, so a checkpoint with model_type "
        f"{model.config.model_type!r} could not be loaded as it again. {advice}"
    )


def _is_stock(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "transformers"


def check_finite_weights(sites: tuple[MLPSite, ...]) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        sites: The MLP sites of a model.

    Raises:
        NonFiniteError: Names the first tensor that is not finite.
    """
    for site in sites:
        for module_name, (module, _) in zip(site.module_names, site.mlp.modules, strict=True):
            _check_finite(module_name, module)


def _check_finite(module_name: str, module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(
                f"{module_name}.{name}: the weights hold NaN or infinity. The checkpoint is damaged or was "
                "converted to a dtype that cannot hold its values; load another one."
            )
