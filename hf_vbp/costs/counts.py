"""Parameters, multiply-accumulates and bytes of a model, from its actual shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_vbp._progress import one_line
from hf_vbp.costs.shape_pass import CPU, ShapePass, reads_values
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.inputs.batch import describe_inputs, model_inputs
from hf_vbp.inputs.example import example_batch

_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


class MissingValuesError(UnsupportedModelError):
    """The forward pass of a model without weights reads values that it does not have."""


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
    11.44 G at a ratio of 0.55. Swin and ConvNeXt (T, S, B) have the published figures. The pass computes shapes only:
    it does not read the weights, and nothing that is computed from them takes memory. Inputs and buffers have their
    values, which some passes read (grids of packed patches, masks).

    Args:
        model: A vision model of transformers.
        inputs: A batch of one image; by default one of the size that the config describes.
        part: Name of the only module whose share of the forward pass counts; by default the whole model.

    Raises:
        MissingValuesError: The model has no weights, and its forward pass reads values.
        UnsupportedModelError: The config does not describe the size of the images, or the forward pass fails.
    """
    root = module_to_run(model, inputs, part)
    counter = _flops(root, inputs)
    if not part or root is not model:
        return int(counter.get_total_flops()) // 2
    return sum(counter.get_flop_counts()[f"{type(model).__name__}.{part}"].values()) // 2


def module_to_run(model: nn.Module, inputs: Mapping[str, Any] | None, part: str) -> nn.Module:
    """Return the module whose forward pass is counted: without a batch, a vision tower runs alone.

    So no texts have to be made, whose image tokens fit the images.

    Args:
        model: A vision model of transformers.
        inputs: As for :func:`count_macs`.
        part: As for :func:`count_macs`.
    """
    tower = model.get_submodule(part)
    return tower if inputs is None and hasattr(tower, "config") else model


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
    batch = example_batch(model, device=CPU) if batch is None else batch
    without_weights = any(parameter.is_meta for parameter in model.parameters())
    training = model.training
    model.eval()
    try:
        inputs = model_inputs(model, batch, CPU)
        try:
            with ShapePass() as shapes:
                return _counted(model, shapes.tensors(model), inputs)
        except _FAILURES as error:
            if without_weights and reads_values(error):
                raise MissingValuesError(
                    f"The forward pass of {type(model).__name__} reads values: {one_line(error)}. Load its weights."
                ) from error
            if without_weights:
                raise _failure(model, inputs, error) from error
        # The control flow of some models reads values that are computed from the weights.
        inputs = model_inputs(model, batch)
        # Detached, because the counter cannot follow a module that returns one of its parameters.
        tensors = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        try:
            return _counted(model, tensors, inputs)
        except _FAILURES as error:
            raise _failure(model, inputs, error) from error
    finally:
        model.train(training)


def _counted(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    # The counter knows the two products of the attention, but not the fused kernel of the CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        torch.func.functional_call(model, tensors, kwargs=inputs, tie_weights=True)
    return counter


def _failure(model: nn.Module, inputs: Mapping[str, Any], error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"The forward pass of {type(model).__name__} fails on {describe_inputs(inputs)}: {one_line(error)}. "
        "Correct its config, or pass data."
    )
