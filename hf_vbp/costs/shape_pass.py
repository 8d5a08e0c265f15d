"""A forward pass that computes shapes: weights have no values, and neither has anything that depends on them."""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU = torch.device("cpu")
# Numbers in the largest tensor that keeps its values. Grids, positions and windows, which passes read, are far smaller
# than masks of the attention, which they do not read.
_LARGEST_VALUES = 2**20


class ShapePass(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a model on the CPU without the values of its weights, with little memory and time.

    Inputs and buffers have their values, and so has what is computed from them alone and is small. Everything else is
    a fake tensor of torch, which has a shape, a dtype and a device.

    Example:
        >>> with ShapePass() as shapes:  # doctest: +SKIP
        ...     torch.func.functional_call(model, shapes.tensors(model), kwargs=inputs, tie_weights=True)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._overwritten: dict[int, Tensor] = {}

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what parameters and buffers are in the pass, by name; buffers are copied, because it may change them.

        Args:
            model: A model, also on the meta device; its buffers have values where they are on another one.
        """
        parameters = {name: self._fake(parameter) for name, parameter in model.named_parameters()}
        buffers = {
            name: self._fake(buffer) if buffer.is_meta else buffer.detach().to(CPU, copy=True)
            for name, buffer in model.named_buffers()
        }
        return {**parameters, **buffers}

    def _fake(self, tensor: Tensor) -> Tensor:
        with self._mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=CPU)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, named = args, kwargs or {}
        if self._overwritten:
            given, named = tree_map_only(Tensor, self._without_lost_values, (given, named))
        if func._schema.is_mutable and any(isinstance(one, FakeTensor) for one in tree_leaves((given, named))):
            self._note_overwritten(func._schema.arguments, given, named)
        result = func(*given, **named)
        if isinstance(result, FakeTensor):
            return result
        return tree_map_only(Tensor, self._without_large_values, result)

    def _note_overwritten(self, arguments: Any, given: Any, named: Any) -> None:
        """Note the tensors into which fake values are written, such as a part of a mask: their views lose values."""
        values = {argument.name: value for argument, value in zip(arguments, given, strict=False)} | named
        for argument in arguments:
            tensor = values.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and type(tensor) is Tensor:
                self._overwritten[tensor.untyped_storage().data_ptr()] = tensor

    def _without_lost_values(self, tensor: Tensor) -> Tensor:
        if type(tensor) is not Tensor or tensor.is_meta:
            return tensor
        lost = tensor.untyped_storage().data_ptr() in self._overwritten
        return self._mode.from_tensor(tensor) if lost else tensor

    def _without_large_values(self, tensor: Tensor) -> Tensor:
        large = type(tensor) is Tensor and tensor.numel() > _LARGEST_VALUES
        return self._mode.from_tensor(tensor) if large else tensor


def reads_values(error: Exception) -> bool:
    """Return whether a pass failed because it reads values that a tensor does not have.

    Args:
        error: The exception of the pass.
    """
    data_dependent = isinstance(error, DataDependentOutputException | DynamicOutputShapeException)
    # Tensors that a constructor made on the meta device and that are neither parameters nor buffers.
    return data_dependent or re.search(r"\bmeta\b", str(error)) is not None
