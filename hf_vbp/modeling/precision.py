"""Compute with a model as after loading it: in its own dtype, without autocast and without replaced forwards."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

# Accelerate keeps the method that it replaced under this name.
_ORIGINAL = "_original_forward"
_DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla", "ipu")

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it runs outside of an ``inference_mode`` or ``no_grad`` of its caller.

    Inside inference mode no gradient can be computed, and every new tensor, including the weights of a pruned model,
    could never be trained or changed in place afterwards.

    Args:
        function: Any function.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def own_precision(*models: nn.Module) -> Iterator[None]:
    """Inside the block, turn autocast off for all device types and remove accelerate's mixed-precision wrappers.

    ``accelerator.prepare(model)``, which ``Trainer`` calls, replaces ``model.forward`` by a function that computes
    under autocast wherever it is called. Copies made inside the context have the forward of their class.

    Args:
        *models: Models, prepared by accelerate or not.
    """
    with ExitStack() as stack:
        for device_type in _autocast_device_types():
            stack.enter_context(torch.autocast(device_type, enabled=False))
        for model in models:
            for module in model.modules():
                if _ORIGINAL in vars(module):
                    stack.enter_context(_wrapper_set_aside(module))
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore the mode of each of its modules."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


@contextmanager
def forward_of_class(model: nn.Module) -> Iterator[None]:
    """Inside the block, remove every ``forward`` that was assigned to a module; a checkpoint does not hold it.

    Hooks of accelerate that move tensors between devices are kept: without them the modules cannot be called.

    Args:
        model: The model; it is restored.
    """
    replaced = [module for module in model.modules() if "forward" in vars(module) and not hasattr(module, "_hf_hook")]
    forwards = [vars(module).pop("forward") for module in replaced]
    try:
        yield
    finally:
        for module, forward in zip(replaced, forwards, strict=True):
            vars(module)["forward"] = forward


def remove_autocast_wrapper(model: nn.Module) -> None:
    """Remove the mixed-precision wrapper of accelerate from a model permanently.

    ``accelerator.unwrap_model(model, keep_fp32_wrapper=False)`` also removes the decorators of the class's own
    forward (accelerate 1.15), after which ``return_dict=False`` fails.

    Args:
        model: A model, prepared by accelerate or not.
    """
    for module in model.modules():
        if _ORIGINAL in vars(module):
            _unwrap(module)


def _unwrap(module: nn.Module) -> None:
    """Restore the ``forward`` from before the wrapper: the method of the class, or one that a user assigned."""
    original = vars(module).pop(_ORIGINAL)
    vars(module).pop("forward", None)
    if not _leads_to(original, type(module).forward):
        vars(module)["forward"] = original


def _leads_to(forward: Any, target: Any) -> bool:
    # A model that was prepared twice has a wrapper of the wrapper.
    while forward is not None:
        if getattr(forward, "__func__", forward) is target:
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


@contextmanager
def _wrapper_set_aside(module: nn.Module) -> Iterator[None]:
    held = {name: vars(module)[name] for name in ("forward", _ORIGINAL) if name in vars(module)}
    _unwrap(module)
    try:
        yield
    finally:
        vars(module).update(held)


def _autocast_device_types() -> list[str]:
    custom = torch._C._get_privateuse1_backend_name()
    return [name for name in (*_DEVICE_TYPES, custom) if torch.is_autocast_enabled(name)]
