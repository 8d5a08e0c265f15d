"""Copies of models, and models without the tensors that an earlier forward pass left with a graph.

A module may keep tensors of its last forward pass (the attention biases of LeViT). After a pass with gradients these
are no leaves, which ``copy.deepcopy`` refuses and later backward passes would follow.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)
_REGISTERED = ("_parameters", "_buffers", "_modules")


def copy_sharing_tensors(model: ModelT, replaced: Mapping[int, object] | None = None) -> ModelT:
    """Return a copy of the modules of a model, which share all parameters and buffers with it.

    Args:
        model: Any model; not changed.
        replaced: What the copy holds in place of other objects of the model, by their ``id``.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy_model(model, {**shared, **(replaced or {})})


def copy_model(model: ModelT, replaced: Mapping[int, object] | None = None) -> ModelT:
    """Return a copy of a model, in which tensors that a forward pass left have no graph.

    Args:
        model: Any model; not changed.
        replaced: As for :func:`copy_sharing_tensors`.
    """
    with without_graphs(model):
        return copy.deepcopy(model, dict(replaced or {}))


def converted_copy(model: ModelT, device: torch.device, dtype: torch.dtype) -> ModelT:
    """Return a copy of a model on a device and in a dtype.

    Args:
        model: Any model; not changed.
        device: The device of the copy.
        dtype: Its dtype.
    """
    copied = copy_model(model)
    modes = [(module, module.training) for module in copied.modules()]
    # LeViT keeps attention biases, which ``to`` does not convert, until it is trained.
    copied.train()
    for module, training in modes:
        module.training = training
    copied.to(device, dtype)
    return copied


@contextmanager
def without_graphs(model: nn.Module) -> Iterator[None]:
    """Hold tensors without a graph in place of those that an earlier forward pass left with one.

    Args:
        model: Any model; its own tensors are put back at the end.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        own = vars(module)
        for name, value in list(own.items()):
            if name not in _REGISTERED:
                detached = _detached(value)
                if detached is not value:
                    before.append((own, name, value))
                    own[name] = detached
    try:
        yield
    finally:
        for own, name, value in before:
            own[name] = value


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Undo at the end what a pass leaves in the modules, except in parameters and buffers; start without graphs.

    For passes whose tensors have no values, and would be found in the model by the next pass.

    Args:
        model: Any model.
    """
    before = [(vars(module), dict(vars(module))) for module in model.modules()]
    for own, attributes in before:
        own.update({name: _copied(value) for name, value in attributes.items() if name not in _REGISTERED})
    try:
        yield
    finally:
        for own, attributes in before:
            own.clear()
            own.update(attributes)


def _copied(value: Any) -> Any:
    """Return a value in which a pass may store tensors: containers are copied, and tensors have no graph."""
    if type(value) is dict:
        return {key: _copied(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(one) for one in value)
    return _detached(value)


def _detached(value: Any) -> Any:
    """Return a value without graphs: itself where it has none, otherwise a copy of its containers."""
    if isinstance(value, torch.Tensor):
        return value if value.is_leaf else value.detach()
    if type(value) is dict:
        items = {key: _detached(one) for key, one in value.items()}
        return items if any(items[key] is not one for key, one in value.items()) else value
    if type(value) in (list, tuple):
        found = [_detached(one) for one in value]
        same = all(new is old for new, old in zip(found, value, strict=True))
        return value if same else type(value)(found)
    return value
