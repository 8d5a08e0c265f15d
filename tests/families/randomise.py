"""Draw every parameter at random, so that nothing holds only because a fresh model has zeros and ones."""

import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

SCALES = ("lambda", "gamma", "layer_scale", "layerscale", "scale1", "scale2")


def randomise(model: Any, seed: int = 0) -> Any:
    """Draw biases, norms, running statistics, layer scales, GRN and weights at random. In place; returns the model.

    Each tensor has a generator of its name, so the values do not depend on the other tensors.
    """
    done: set[int] = set()
    with torch.no_grad():
        for name, module, tensor in _tensors(model):
            if id(tensor) in done or not tensor.is_floating_point():
                continue
            done.add(id(tensor))
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            tensor.copy_(_drawn(name.rpartition(".")[2], module, tensor, generator))
    return model


def settle(model: Any, inputs: dict[str, Any], seed: int = 0) -> Any:
    """Move the running statistics of every BatchNorm near those of ``inputs``, as in a trained model. In place.

    Random statistics let the signal fade in deep convolutional networks. They stay off by up to about half a standard
    deviation, so that nothing holds because they are exact.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    norms = {name: module for name, module in model.named_modules() if isinstance(module, batch_norm)}
    for module in norms.values():
        module.reset_running_stats()
        module.momentum = None  # average, whatever the number of batches
        module.train()
    with torch.no_grad():
        model(**inputs)
        for name, module in norms.items():
            module.eval()
            module.momentum = 0.1
            module.num_batches_tracked.zero_()
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            spread = module.running_var.clamp(min=1e-4)
            module.running_mean += 0.3 * spread.sqrt() * torch.randn(spread.shape, generator=generator)
            module.running_var.copy_(spread * (0.5 + 1.5 * torch.rand(spread.shape, generator=generator)))
    return model


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    """Parameters and statistics of norms, with the module that owns them; other buffers are tables, not weights."""
    for prefix, module in model.named_modules():
        dotted = f"{prefix}." if prefix else ""
        for name, tensor in module.named_parameters(recurse=False):
            yield dotted + name, module, tensor
        if _is_norm(module):
            for name, tensor in module.named_buffers(recurse=False):
                yield dotted + name, module, tensor


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _drawn(name: str, module: nn.Module, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    normal = torch.randn(tensor.shape, generator=generator)
    uniform = torch.rand(tensor.shape, generator=generator)
    if name == "running_var":
        return 0.5 + 1.5 * uniform
    if name == "running_mean" or name.endswith("bias"):
        return 0.3 * normal
    if _is_norm(module):
        return 0.5 + uniform
    if "GRN" in type(module).__name__:
        return normal
    if name.startswith("logit"):
        return 0.5 + uniform
    if any(part in name for part in SCALES) or (name == "weight" and "Scale" in type(module).__name__):
        return 0.3 + uniform
    if name == "weight" and isinstance(module, nn.Embedding):
        return normal
    if name.endswith("weight") and tensor.ndim >= 2:
        return normal * _fan_in(module, tensor) ** -0.5
    return 0.5 * normal


def _fan_in(module: nn.Module, tensor: torch.Tensor) -> int:
    if type(module).__name__ == "Conv1D":
        return tensor.shape[0]
    return tensor[0].numel()
