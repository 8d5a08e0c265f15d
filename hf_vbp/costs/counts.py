"""Parameters, multiply-accumulates and bytes of a model, from its actual shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_vbp._progress import one_line
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.inputs.batch import describe_inputs, model_inputs
from hf_vbp.inputs.example import example_batch


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and saved buffers, the size of the weights on disk; shared ones count once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_macs(model: nn.Module, inputs: Mapping[str, Any] | None = None, part: str = "") -> int:
    """Return the multiply-accumulates of one image.

    Counts all matrix products and convolutions of a forward pass with their actual shapes: the linears, the patch
    embedding, and both products of the attention, as in the paper's figures (section 3.2). The paper's counter adds
    some element-wise work, which is not counted here: DeiT-B has 17.56 G instead of 17.58 G, and 11.43 G instead of
    11.44 G at a ratio of 0.55. Swin and ConvNeXt (T, S, B) have the published figures. The pass runs on the meta
    device, so it takes no memory and does not read the weights.

    Args:
        model: A vision model of transformers.
        inputs: A batch of one image; by default one of the size that the config describes.
        part: Name of the only module whose share of the forward pass counts; by default the whole model.

    Raises:
        UnsupportedModelError: The config does not describe the size of the images, or the forward pass fails.
    """
    counter = _flops(model, inputs)
    if not part:
        return int(counter.get_total_flops()) // 2
    return sum(counter.get_flop_counts()[f"{type(model).__name__}.{part}"].values()) // 2


def describe_cost(model: nn.Module, inputs: Mapping[str, Any] | None = None, part: str = "") -> dict[str, int]:
    """Return ``{"parameters", "macs", "bytes"}`` of a model, see the functions that count them.

    Args:
        model: A vision model of transformers.
        inputs: As for :func:`count_macs`.
        part: Name of the only module that counts, for instance the vision tower of a dual encoder
            (:func:`hf_vbp.costs.part.counted_part`); by default the whole model.
    """
    counted = model.get_submodule(part)
    return {
        "parameters": count_parameters(counted),
        "macs": count_macs(model, inputs, part),
        "bytes": count_bytes(counted),
    }


def _flops(model: nn.Module, batch: Mapping[str, Any] | None) -> FlopCounterMode:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: torch.empty_like(tensor.detach(), device="meta") for name, tensor in tensors.items()}
    inputs = model_inputs(model, example_batch(model) if batch is None else batch)
    counter = FlopCounterMode(display=False)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), counter:
            torch.func.functional_call(model, meta, kwargs=_on_meta(inputs), tie_weights=True)
    except (RuntimeError, ValueError, TypeError):
        # Models whose control flow reads values cannot run on the meta device.
        counter = _on_values(model, tensors, inputs)
    finally:
        model.train(training)
    return counter


def _on_values(model: nn.Module, tensors: Mapping[str, Any], inputs: dict[str, Any]) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    # Detached, because the counter cannot follow a module that returns one of its parameters.
    real = {name: tensor.detach() for name, tensor in tensors.items()}
    try:
        # The counter knows the two products of the attention, but not the fused kernel of the CPU.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            torch.func.functional_call(model, real, kwargs=inputs, tie_weights=True)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise UnsupportedModelError(
            f"The forward pass of {type(model).__name__} fails on {describe_inputs(inputs)}: {one_line(error)}. "
            "Correct its config, or pass data."
        ) from error
    return counter


def _on_meta(inputs: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
