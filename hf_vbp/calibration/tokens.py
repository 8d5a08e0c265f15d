"""The tokens of each image at one site, without those that are padded or masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_vbp.calibration.padded_pixels import counted_tokens
from hf_vbp.errors import StatisticsError
from hf_vbp.inputs.batch import patches_by_image

_PATCH_MASKS = ("pixel_attention_mask", "patch_attention_mask", "padding_mask")
_PIXEL_MASK = "pixel_mask"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Values of the tokens of some images.

    Attributes:
        values: ``(images, tokens, width)``.
        mask: ``(images, tokens)`` bool, true for tokens that count; None where all do.
    """

    values: Tensor
    mask: Tensor | None = None

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the tokens of the images ``start`` to ``stop - 1`` that count, ``(tokens, width)``."""
        part = self.values[start:stop]
        if self.mask is None:
            return part.reshape(-1, part.shape[-1])
        return part[self.mask[start:stop]]

    def like(self, values: Tensor) -> "Tokens":
        """Return other values of the same tokens."""
        return Tokens(values, self.mask)


def tokens_of(
    values: Tensor, inputs: Mapping[str, Any], images: int, site: str, patch_sides: Sequence[int] = ()
) -> Tokens:
    """Sort values by image.

    Args:
        values: ``(images, ..., width)``; the first dimension may also be images times frames or windows. With packed
            patches ``(patches of all images, width)``.
        inputs: The inputs of the model, which may hold masks.
        images: Number of images.
        site: Name of the site, for the message.
        patch_sides: The sides of the patches of the model, by which tokens are found in a mask of pixels.

    Raises:
        StatisticsError: The first dimension is not the images, or padded pixels cannot be assigned to tokens.
    """
    patches = patches_by_image(inputs)
    if patches is not None and values.shape[0] == 1 and values.dim() == 3:
        values = values[0]
    if patches is not None and values.dim() == 2 and len(values) == sum(patches):
        padded = torch.nn.utils.rnn.pad_sequence(list(torch.split(values, patches)), batch_first=True)
        lengths = torch.tensor(patches, device=values.device)
        return Tokens(padded, torch.arange(padded.shape[1], device=values.device) < lengths[:, None])
    if values.dim() < 2 or values.shape[0] % images:
        raise StatisticsError(
            f"site {site}: expected values whose first dimension is the {images} images, got the "
            f"shape {tuple(values.shape)}. This model needs an adapter of its own."
        )
    by_image = values.reshape(images, -1, values.shape[-1])
    return Tokens(by_image, _mask(inputs, by_image.shape[:2], len(values), site, patch_sides))


def _mask(
    inputs: Mapping[str, Any], shape: Sequence[int], rows: int, site: str, patch_sides: Sequence[int]
) -> Tensor | None:
    for key in _PATCH_MASKS:
        mask = inputs.get(key)
        if isinstance(mask, Tensor) and mask.dim() > 1 and tuple(mask.flatten(1).shape) == tuple(shape):
            return _unless_all(mask.flatten(1).bool())
    mask = inputs.get(_PIXEL_MASK)
    if not isinstance(mask, Tensor) or bool(mask.all()):
        return None
    images, tokens = shape
    # The tokens of windows are not in the order of the pixels.
    fits = mask.dim() == 3 and len(mask) == images == rows
    counted = counted_tokens(mask, tokens, patch_sides) if fits else None
    if counted is None:
        raise StatisticsError(
            f"site {site}: pixel_mask {tuple(mask.shape)} has padded pixels, but the {tokens} tokens of an image are "
            "not a grid of patches of it, so that padded tokens would count. Give each batch images of one shape, "
            "which need no mask, as hf_vbp.load_images does, or leave pixel_mask out of the batches."
        )
    return _unless_all(counted)


def _unless_all(mask: Tensor) -> Tensor | None:
    return None if bool(mask.all()) else mask
