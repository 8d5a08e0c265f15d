"""Outputs of any shape as rows ``(images, positions, components)``, and the positions that count."""

import math

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, DataError


def to_rows(output: Tensor, component_dim: int | None) -> Tensor:
    """Return an output as ``(images, positions, components)``.

    Args:
        output: Any shape whose first dimension is the images.
        component_dim: The dimension of the components, not the first; None for one component per position.

    Raises:
        ConfigurationError: The output has no such dimension, no image, or is no floating-point tensor.
    """
    if not output.is_floating_point() or output.numel() == 0 or output.dim() < 2 - (component_dim is None):
        raise ConfigurationError(
            f"Expected an output (images, ...) of floating-point numbers, got {output.dtype} of shape "
            f"{tuple(output.shape)}: choose another tensor of the model's output."
        )
    if component_dim is None:
        return output.reshape(output.shape[0], -1, 1)
    if not -output.dim() <= component_dim < output.dim() or component_dim % output.dim() == 0:
        raise ConfigurationError(
            f"The dimension of the components is {component_dim}, but the output has the shape {tuple(output.shape)}, "
            "whose first dimension is the images: give one of its other dimensions."
        )
    moved = output.movedim(component_dim, -1)
    return moved.reshape(moved.shape[0], -1, moved.shape[-1])


def from_rows(rows: Tensor, shape: torch.Size, component_dim: int | None) -> Tensor:
    """Return rows in the shape of the output that they were made from.

    Args:
        rows: ``(images, positions, components)``.
        shape: The shape of the output.
        component_dim: As in :func:`to_rows`.
    """
    if component_dim is None:
        return rows.reshape(shape)
    sizes = list(shape)
    components = sizes.pop(component_dim % len(shape))
    return rows.reshape(*sizes, components).movedim(-1, component_dim)


def counted_positions(mask: Tensor | None, output: Tensor, component_dim: int | None) -> Tensor:
    """Return which positions of an output count.

    Args:
        mask: Bool, the shape of the output without its components, or the leading dimensions of that shape. None
            where all positions count.
        output: The output.
        component_dim: As in :func:`to_rows`.

    Returns:
        ``(images, positions)`` bool on the device of the output.

    Raises:
        ConfigurationError: The mask is not bool, or its shape does not fit.
        DataError: No position of an image counts.
    """
    sizes = list(output.shape)
    if component_dim is not None:
        sizes.pop(component_dim % len(sizes))
    if mask is None:
        return torch.ones(sizes[0], math.prod(sizes[1:]), dtype=torch.bool, device=output.device)
    if mask.dtype != torch.bool or mask.dim() == 0 or list(mask.shape) != sizes[: mask.dim()]:
        raise ConfigurationError(
            f"The mask is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of the shape "
            f"{tuple(sizes)}, or of its leading dimensions: True where a position counts."
        )
    trailing = [1] * (len(sizes) - mask.dim())
    counted = mask.reshape(*mask.shape, *trailing).expand(sizes).reshape(sizes[0], -1).to(output.device)
    some = counted.any(1)
    if not bool(some.all()):
        raise DataError(
            f"The mask leaves no position of image {int(some.int().argmin())} of the batch (counted from 0): remove "
            "that image, or correct the mask."
        )
    return counted


def mean_over_positions(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of each image over the positions that count.

    Args:
        values: ``(images, positions)``.
        counted: ``(images, positions)`` bool.

    Returns:
        ``(images,)``
    """
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1)
