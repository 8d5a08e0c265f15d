"""The output of one forward pass: whether it is the same every time, and whether it holds logits of classes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hf_vbp.errors import UnsupportedModelError

_SINGLE_LABEL = (None, "single_label_classification")


def check_repeatable(model: Any, first: Any, second: Any) -> None:
    """Refuse a model whose forward pass is random in eval mode. Outputs on the meta device have no values to compare.

    Args:
        model: The model, named in the message.
        first: Its output for some images.
        second: Its output for the same images in another pass.

    Raises:
        UnsupportedModelError: The outputs differ by more than rounding.
    """
    if not differ(first, second):
        return
    raise UnsupportedModelError(
        f"Two forward passes of {type(model).__name__} on the same images in eval mode give different outputs, so "
        "neither its statistics nor its checkpoint could be verified. Remove the random part."
    )


def differ(first: Any, second: Any) -> bool:
    """Return whether two outputs of a model differ by more than rounding."""
    return not all(_close(one, other) for one, other in zip(_tensors(first), _tensors(second), strict=False))


def why_not_single_label(model: Any, output: Any) -> str | None:
    """Return why the output is not the logits of a classifier of one label per image, or None where it is.

    A softmax over one logit is constant, and one over several labels that may hold at once has no meaning; so
    labels can neither be drawn from such an output nor predicted by it.

    Args:
        model: The model, with its config.
        output: Its output of one forward pass.
    """
    logits = getattr(output, "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or getattr(model.config, "num_labels", None) == 0:
        return "it returns no logits (images, classes)"
    if logits.shape[1] == 1:
        return "it has one output, a regression head"
    problem = getattr(model.config, "problem_type", None)
    return None if problem in _SINGLE_LABEL else f"its problem_type is {problem!r}"


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.shape != second.shape:
        return False
    if first.is_meta or not first.is_floating_point():
        return True
    # Some kernels add in another order in every run.
    tolerance = 1e-3 if torch.finfo(first.dtype).bits >= 32 else 5e-2
    # On the CPU, because some devices (MPS) have no float64.
    one, other = (output.cpu().double().nan_to_num() for output in (first, second))
    scale = float(one.abs().max()) if one.numel() else 0.0
    return one.numel() == 0 or float((one - other).abs().max()) <= tolerance * scale


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
