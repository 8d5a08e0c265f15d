"""Images made from the config of a model, for steps that have no batch of the user."""

from typing import Any

import torch
from torch import nn

from hf_vbp.errors import UnsupportedModelError


def image_shape(config: Any, name: str = "The model") -> tuple[int, int, int]:
    """Return ``(channels, height, width)`` of the images that a config describes.

    Args:
        config: A config of transformers; a model with two towers has the image size in its vision config.
        name: Name of the model in the message.

    Raises:
        UnsupportedModelError: The config describes no size.
    """
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None)
    if size is None:
        raise UnsupportedModelError(
            f"{name}: its config has no image_size, so no image can be made for it; set config.image_size."
        )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(getattr(config, "num_channels", 3)), int(height), int(width)


def blank_images(
    model: nn.Module, batch: int = 1, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return black images ``(batch, channels, height, width)`` of the size that the model's config describes.

    Args:
        model: A vision model of transformers.
        batch: Number of images.
        device: Device of the images; by default that of the model.
        dtype: Dtype of the images; by default that of the model.

    Raises:
        UnsupportedModelError: The config describes no size.
    """
    parameter = next(model.parameters())
    shape = (batch, *image_shape(getattr(model, "config", None), type(model).__name__))
    return torch.zeros(shape, dtype=dtype or parameter.dtype, device=device or parameter.device)
