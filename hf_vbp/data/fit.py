"""Check that a model can take the images that its processor prepares."""

from typing import Any

import torch

from hf_vbp._progress import one_line
from hf_vbp.errors import DataError, UnsupportedModelError
from hf_vbp.inputs.images import image_shape


def check_fit(model: Any, pixels: torch.Tensor, name: str) -> None:
    """Refuse images that a model cannot take, by running it on one image of another shape than its config describes.

    Args:
        model: A vision model of transformers.
        pixels: The first image ``(channels, height, width)``.
        name: The name of the data set for the message.

    Raises:
        DataError: The model cannot take the image.
    """
    try:
        expected = image_shape(model.config)
    except UnsupportedModelError:
        return
    if tuple(pixels.shape) == expected:
        return
    parameter = next(model.parameters())
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(pixel_values=pixels[None].to(parameter.device, parameter.dtype))
    except (ValueError, RuntimeError) as error:
        channels, height, width = expected
        raise DataError(
            f"The images of {name} are prepared with the shape {tuple(pixels.shape)}, but {type(model).__name__} "
            f"takes "
            f"{expected} ({one_line(error, 200).rstrip('.')}): use a processor with {channels} channel(s) and the "
            f"size {height} x {width}, and save it with the model. Position embeddings are not interpolated."
        ) from error
    finally:
        for module, training in modes:
            module.training = training
