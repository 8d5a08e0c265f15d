"""Reject models that cannot be pruned as they are (quantized, compiled, wrapped, offloaded)."""

from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.errors import NonFiniteError, UnsupportedModelError


def check_prunable(model: Any) -> None:
    """Refuse anything but a whole, plain transformers model.

    Args:
        model: The model to prune.

    Raises:
        UnsupportedModelError: Not a transformers model, or one that is compiled, wrapped for distributed
            training, PEFT-wrapped, quantized, or spread over several devices.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"Expected a transformers model, got {type(model).__name__}.")
    _refuse_wrappers(model)
    if not hasattr(model, "config") or not hasattr(model.config, "model_type"):
        raise UnsupportedModelError(
            f"Expected a transformers model with a config, got {type(model).__name__}. "
            "Load it with AutoModelForImageClassification.from_pretrained."
        )
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            "The model is quantized, so its weights cannot be changed. Load it without quantization_config, "
            "prune it, and quantize the pruned model."
        )
    _refuse_spread(model)


def _refuse_wrappers(model: nn.Module) -> None:
    if hasattr(model, "_orig_mod"):
        raise UnsupportedModelError(
            "The model is compiled by torch.compile; prune the original (model._orig_mod), then compile the result."
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or "FullyShardedDataParallel" in {
        cls.__name__ for cls in type(model).__mro__
    }:
        raise UnsupportedModelError(
            f"The model is wrapped in {type(model).__name__}; pass the model inside (accelerator.unwrap_model(model))."
        )
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            "The model has PEFT adapters; merge them first (model.merge_and_unload()) and prune the result."
        )


def _refuse_spread(model: nn.Module) -> None:
    devices = {str(parameter.device) for parameter in model.parameters()}
    if "meta" in devices or "disk" in {str(device) for device in getattr(model, "hf_device_map", {}).values()}:
        raise UnsupportedModelError(
            "Some weights of the model are not in memory (meta or offloaded); load it without offloading to prune it."
        )
    if len(devices) > 1:
        raise UnsupportedModelError(
            f"The model is spread over {', '.join(sorted(devices))}; load it on one device to prune it."
        )


def check_finite_weights(sites: tuple[MLPSite, ...]) -> None:
    """Refuse weights with NaN or infinite values.

    Args:
        sites: The MLP sites of a model.

    Raises:
        NonFiniteError: Names the first tensor that is not finite.
    """
    for site in sites:
        for name, tensor in site.weights().items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(
                    f"{site.name}, {name}: the weights hold NaN or infinity; the checkpoint is damaged or was "
                    "converted to a dtype that cannot hold it. Nothing can be pruned from it."
                )
