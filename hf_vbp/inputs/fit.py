"""Check that a model can take images."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from hf_vbp._progress import one_line
from hf_vbp.errors import DataError, HfVbpError, UnsupportedModelError
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.inputs.example import image_shape
from hf_vbp.modeling.precision import eval_mode


@contextmanager
def images_of(model: Any, inputs: Mapping[str, Any], name: str = "") -> Iterator[None]:
    """Report the failure of a forward pass on images of another shape than the model's config describes.

    Args:
        model: A vision model of transformers, which runs in the block.
        inputs: The arguments of its forward pass.
        name: The name of the data set for the message.

    Raises:
        DataError: The model cannot take images of this shape.
    """
    try:
        yield
    except (HfVbpError, torch.OutOfMemoryError):
        raise
    except (ValueError, RuntimeError) as error:
        pixels, expected = inputs.get("pixel_values"), _expected(model)
        found = tuple(pixels.shape[1:]) if isinstance(pixels, torch.Tensor) else expected
        if expected is None or found == expected:
            raise
        channels, height, width = expected
        raise DataError(
            f"The images{f' of {name}' if name else ''} are prepared with the shape {found}, but "
            f"{type(model).__name__} takes {expected} ({one_line(error, 200).rstrip('.')}): use a processor with "
            f"{channels} channel(s) and the size {height} x {width}, and save it with the model, or adapt the "
            "position embeddings to another size with --interpolate-pos-encoding "
            "(hf_vbp.interpolate_position_embeddings)."
        ) from error


def check_fit(model: Any, pixels: torch.Tensor, name: str = "") -> None:
    """Refuse images that a model cannot take, by running it on one image of another shape than its config describes.

    Args:
        model: A vision model of transformers.
        pixels: The first image ``(channels, height, width)``.
        name: The name of the data set for the message.

    Raises:
        DataError: The model cannot take the image.
    """
    if _expected(model) in (None, tuple(pixels.shape)):
        return
    inputs = model_inputs(model, {"pixel_values": pixels[None]})
    with torch.no_grad(), eval_mode(model), images_of(model, inputs, name):
        model(**inputs)


def check_first_image(model: Any, data: Any) -> None:
    """Refuse images that a model cannot take, where the first of them can be read without using it up.

    That holds for sequences of dicts with ``pixel_values``, and for a ``DataLoader`` of a data set with indices. The
    first batch of a pass checks all others.

    Args:
        model: A vision model of transformers.
        data: Batches of images, in any form.

    Raises:
        DataError: The model cannot take the first image.
    """
    item = first_item(data)
    pixels = item.get("pixel_values") if isinstance(item, Mapping) else None
    if isinstance(pixels, torch.Tensor) and pixels.ndim in (3, 4) and pixels.is_floating_point():
        check_fit(model, pixels if pixels.ndim == 3 else pixels[0])


def first_item(data: Any) -> Any:
    """Return the first item of a sequence or of a ``DataLoader`` with indices; None where reading it would use it up.

    Args:
        data: Batches of images, in any form.
    """
    data = getattr(data, "loader", data)
    if isinstance(data, list | tuple):
        return data[0] if data else None
    if isinstance(data, DataLoader) and data.batch_sampler is not None:
        # Iterating it would change the state of its random number generator, and with it the order of the pass.
        indexed = isinstance(data.sampler, SequentialSampler | RandomSampler)
        return data.collate_fn([data.dataset[0]]) if indexed and len(data) else None
    return None


def read_first_item(data: Any) -> Any:
    """Return the first item of an object that can be iterated again, and that :func:`first_item` does not read.

    The global random number generators are restored, so that shuffled data keep their order.

    Args:
        data: Batches of images, in any form.

    Returns:
        Its first item; None of an empty object, of an iterator, and of a ``DataLoader``, which may start processes.
    """
    if isinstance(data, list | tuple | Iterator | DataLoader) or hasattr(data, "loader"):
        return None
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            return next(iter(data), None)
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _expected(model: Any) -> tuple[int, int, int] | None:
    try:
        return image_shape(model.config, usual=None)
    except (AttributeError, UnsupportedModelError):
        return None
