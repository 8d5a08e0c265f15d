"""The inputs of a model in a batch that its processor or a collator made."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp.errors import DataError

# The first that a batch holds has one entry per image. Texts and queries of a batch may have another number.
_IMAGES = (
    "pixel_values",
    "pixel_values_videos",
    "input_values",
    "input_features",
    "inputs",
    "hidden_states",
    "input_ids",
)
_GRIDS = ("image_grid_thw", "grid_thw", "video_grid_thw")
# Inputs that belong to the texts of a batch, not to one of its images, where it has both.
_TEXTS = "input_ids"
_SHARED = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def model_inputs(model: nn.Module, batch: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """Return the entries of a batch that the forward pass of a model takes, on its device and in its dtype.

    Args:
        model: A model of transformers.
        batch: What the processor or the collator made. Labels, and keys that the forward pass does not have, are
            left out. Lists of equal tensors are stacked.
        device: Device of the tensors; by default that of the model.

    Raises:
        DataError: None of the entries is an input of the model, or a list has tensors of several shapes.
    """
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    names, device = forward_names(model), device or parameter.device
    inputs = {
        key: _on(value, device, parameter.dtype) for key, value in batch.items() if key in names and "label" not in key
    }
    if not inputs:
        raise DataError(
            f"{type(model).__name__} takes {', '.join(sorted(names))}, but a batch holds "
            f"{', '.join(map(str, batch)) or 'nothing'}. Make the batches with the processor of the model."
        )
    if "noise" in names and inputs.get("noise") is None:
        inputs["noise"] = _masking_noise(model, inputs).to(device, parameter.dtype)
    if inputs.get("bool_masked_pos") is None and _requires(model, "bool_masked_pos"):
        inputs["bool_masked_pos"] = _masked_positions(model, inputs).to(device)
    return inputs


def _requires(model: nn.Module, name: str) -> bool:
    one = inspect.signature(type(model).forward).parameters.get(name)
    return one is not None and one.default is one.empty


def _masked_positions(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return the mask of every second token of each video, for models that take no video without one (VideoMAE)."""
    videos, frames, _, *size = inputs[main_input(inputs, model)].shape
    side = model.config.patch_size
    patches = math.prod(pixels // side for pixels in size)
    tokens = torch.arange(frames // model.config.tubelet_size * patches)
    return (tokens % 2 == 1).expand(videos, -1)


def _masking_noise(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return noise by which a model with random masking (ViTMAE) masks the same patches of every image."""
    size = inputs[main_input(inputs, model)].shape[-2:]
    # The masked units are patches, in Hiera groups of patches.
    config = model.config
    units = getattr(config, "masked_unit_size", None)
    if units is not None:
        strides = [stride * unit for stride, unit in zip(config.patch_stride, units, strict=True)]
    else:
        strides = [config.patch_size] * 2
    patches = math.prod(pixels // stride for pixels, stride in zip(size, strides, strict=True))
    order: Tensor = torch.randperm(patches, generator=torch.Generator().manual_seed(0)) / patches
    return order.expand(count_images(inputs, model), -1)


def forward_names(model: nn.Module) -> set[str]:
    """Return the names of the arguments of a model's forward pass."""
    signature = inspect.signature(type(model).forward)
    return {name for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD} - {"self"}


def _on(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    value = stacked(value)
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def stacked(value: Any) -> Any:
    """Return a list of tensors or arrays of one shape as one tensor; anything else unchanged.

    Raises:
        DataError: They have several shapes.
    """
    if isinstance(value, Sequence) and value and not isinstance(value, str) and hasattr(value[0], "shape"):
        shapes = sorted({tuple(one.shape) for one in value})
        if len(shapes) > 1:
            raise DataError(
                f"The images of a batch have several shapes ({', '.join(map(str, shapes[:3]))}): give one batch for "
                "each shape, as hf_vbp.load_images does, or images that are padded by the processor of the model."
            )
        return torch.stack([torch.as_tensor(one) for one in value])
    return torch.as_tensor(value) if hasattr(value, "__array__") else value


def main_input(batch: Mapping[str, Any], model: nn.Module | None = None) -> str:
    """Return the key of the tensor with one entry per image of a batch.

    In the batches of a model with other input names it is the first tensor of floating-point numbers with two
    dimensions or more.

    Args:
        batch: The batch.
        model: The model, for the name of its main input.

    Raises:
        DataError: The batch holds no such tensor.
    """
    named = (*_IMAGES, getattr(model, "main_input_name", "pixel_values"))
    for key in named:
        if isinstance(batch.get(key), Sequence) or hasattr(batch.get(key), "__array__"):
            return str(key)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and "label" not in str(key):
            return str(key)
    raise DataError(
        f"Every batch must be a dict with {named[-1]}, got one with {sorted(map(str, batch))}. Make the batches "
        "with the processor of the model."
    )


def count_images(batch: Mapping[str, Any], model: nn.Module | None = None) -> int:
    """Return the number of images in a batch; with packed patches, of its grids."""
    grid = _grid(batch)
    return len(batch[grid]) if grid else len(batch[main_input(batch, model)])


def take_images(batch: Mapping[str, Any], start: int, stop: int, model: nn.Module | None = None) -> dict[str, Any]:
    """Return the part of a batch with the images ``start`` to ``stop - 1``; texts and queries are kept whole.

    Where the batch has no images but ``input_ids`` (ImageGPT), these and the mask with them are the images.

    Args:
        batch: The batch.
        start: The first image.
        stop: One more than the last image.
        model: The model, for the name of its main input.
    """
    images, grid = count_images(batch, model), _grid(batch)
    if (start, stop) == (0, images):
        return dict(batch)
    shared = _SHARED if grid or _has_texts(batch, model) else ()
    patches = [0, *(batch[grid].prod(-1).cumsum(0).tolist())] if grid else []
    part = {}
    for key, value in batch.items():
        sized = isinstance(value, Tensor | list | tuple) and not (isinstance(value, Tensor) and value.dim() == 0)
        if grid and sized and key != grid and len(value) == patches[-1]:
            part[key] = value[patches[start] : patches[stop]]
        elif sized and len(value) == images and key not in shared:
            part[key] = value[start:stop]
        else:
            part[key] = value
    return part


def _has_texts(batch: Mapping[str, Any], model: nn.Module | None) -> bool:
    """Whether a batch has texts next to its images."""
    return _TEXTS in batch and main_input(batch, model) != _TEXTS


def first_image(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a batch with its first image, and the first of its texts."""
    part = take_images(batch, 0, 1)
    texts = len(batch[_TEXTS]) if isinstance(batch.get(_TEXTS), Tensor) else 0
    for key in _SHARED:
        value = part.get(key)
        if isinstance(value, Tensor) and value.dim() > 1 and len(value) in (texts, count_images(batch)):
            part[key] = value[:1]
    return part


def repeat_images(batch: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Return a batch of equal images.

    Args:
        batch: A batch of one image, with at most one text.
        images: The number of images.
    """
    packed = patches_by_image(batch)
    lengths = {1, *(packed or ())}
    return {
        key: value.repeat(images, *[1] * (value.dim() - 1))
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) in lengths
        else value
        for key, value in batch.items()
    }


def patches_by_image(batch: Mapping[str, Any]) -> list[int] | None:
    """Return the number of packed patches of each image, or None where the images are not packed."""
    grid = _grid(batch)
    return None if grid is None else [int(number) for number in batch[grid].prod(-1)]


def _grid(batch: Mapping[str, Any]) -> str | None:
    return next((key for key in _GRIDS if isinstance(batch.get(key), Tensor)), None)


def describe_inputs(inputs: Mapping[str, Any]) -> str:
    """Return the shapes of the inputs of a model, for messages."""
    shapes = {key: tuple(value.shape) for key, value in inputs.items() if isinstance(value, Tensor)}
    return ", ".join(f"{key} {shape}" for key, shape in shapes.items())
