"""Adapt a model to images of another size than it was trained with."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hf_vbp.errors import ConfigurationError, UnsupportedModelError

_METHOD = "interpolate_pos_encoding"


def interpolate_position_embeddings(model: Any, size: int | Sequence[int]) -> Any:
    """Adapt a model to images of another size, in place, by interpolating its position embeddings once.

    The outputs are those of ``model(pixel_values, interpolate_pos_encoding=True)`` of transformers. Afterwards the
    model takes images of this size only, and a checkpoint of it is an ordinary one: calibration, evaluation, costs,
    verification and later users need no option.

    Args:
        model: A vision model of transformers whose forward pass takes ``interpolate_pos_encoding``.
        size: Height and width of the images in pixels, or one number for both.

    Returns:
        The model.

    Raises:
        UnsupportedModelError: The model cannot interpolate its position embeddings.
        ConfigurationError: The size is not a multiple of the size of the patches.

    Example:
        >>> import hf_vbp
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> model = hf_vbp.interpolate_position_embeddings(model, 48)
        >>> model.config.image_size
        48
    """
    height, width = (size, size) if isinstance(size, int) else (int(side) for side in size)
    modules = [module for module in model.modules() if _has_position_embeddings(module)]
    if len(modules) != 1 or getattr(model.config, "image_size", None) is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot interpolate its position embeddings ({_METHOD}). Expected a ViT or a DeiT "
            "of transformers. Use an image processor of the size that the model was trained with."
        )
    embeddings, patches = modules[0], modules[0].patch_embeddings
    sides = _pair(patches.patch_size)
    if min(height, width) < max(sides) or height % sides[0] or width % sides[1]:
        raise ConfigurationError(
            f"The images are {height} x {width} pixels, expected multiples of the patches of {type(model).__name__} "
            f"({sides[0]} x {sides[1]})."
        )
    if (height, width) == _pair(model.config.image_size):
        return model
    old, count = embeddings.position_embeddings, (height // sides[0]) * (width // sides[1])
    special = old.shape[1] - patches.num_patches
    with torch.no_grad():
        found = embeddings.interpolate_pos_encoding(old.new_zeros(1, special + count, old.shape[2]), height, width)
    embeddings.position_embeddings = nn.Parameter(found.detach().clone(), requires_grad=old.requires_grad)
    embeddings.image_size = patches.image_size = (height, width)
    patches.num_patches = count
    model.config.image_size = height if height == width else [height, width]
    return model


def size_of_processor(processor: Any) -> tuple[int, int] | None:
    """Return height and width of the images that an image processor prepares; None where its settings do not say."""
    name = "crop_size" if getattr(processor, "do_center_crop", False) else "size"
    size = getattr(processor, name, None)
    try:
        return int(size["height"]), int(size["width"])  # type: ignore[index]
    except (KeyError, TypeError):
        return None


def _has_position_embeddings(module: nn.Module) -> bool:
    found = getattr(module, "position_embeddings", None)
    patches = getattr(module, "patch_embeddings", None)
    if not callable(getattr(module, _METHOD, None)):
        return False
    return isinstance(found, nn.Parameter) and hasattr(patches, "patch_size")


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)
