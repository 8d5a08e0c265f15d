"""Which tokens of an image are made of padded pixels."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# A class token, distillation tokens and registers; where the patches are not known, few, so that queries are none.
_MOST_LEADING = 16
_MOST_OF_UNKNOWN = 5


def patch_sizes(config: Any) -> tuple[int, ...]:
    """Return the sides of the square patches that the configs of a model and of its parts name.

    Args:
        config: A config of transformers; anything else has none.
    """
    if not hasattr(config, "to_dict"):
        return ()
    found: set[int] = set()
    waiting: list[Any] = [config.to_dict()]
    while waiting:
        values = waiting.pop()
        waiting.extend(value for value in values.values() if isinstance(value, dict))
        size = values.get("patch_size")
        sides = {size} if isinstance(size, int) else set(size) if isinstance(size, list | tuple) else set()
        if len(sides) == 1:
            found |= {side for side in sides if isinstance(side, int) and side > 0}
    return tuple(sorted(found))


def counted_tokens(mask: Tensor, tokens: int, patches: Sequence[int] = ()) -> Tensor | None:
    """Return the tokens of each image that count, ``(images, tokens)`` bool; None where pixels are not their grid.

    Tokens are the patches of the image at one stride, row by row. Further ones come first, as the class token and
    registers do, and always count. The grid follows from the numbers alone: grids without further tokens are certain,
    those with them from about 200 pixels a side on, and for smaller images almost always.

    Args:
        mask: ``(images, height, width)``, zero for padded pixels.
        tokens: The number of tokens of an image.
        patches: The sides of patches that the model may have. Without them, further tokens are recognized where one
            grid alone is possible.
    """
    grid = _grid((int(mask.shape[-2]), int(mask.shape[-1])), tokens, tuple(patches))
    if grid is None:
        return None
    # As detectors do it: the nearest pixel of the mask.
    counted = torch.nn.functional.interpolate(mask[None].float(), size=grid)[0].bool().flatten(1)
    leading = counted.new_ones(len(counted), tokens - counted.shape[1])
    return torch.cat([leading, counted], 1)


@lru_cache(maxsize=256)
def _grid(size: tuple[int, int], tokens: int, patches: tuple[int, ...]) -> tuple[int, int] | None:
    every = range(1, max(size) + 1)
    if not patches:
        return _without_others(size, tokens, every) or _after_others(size, tokens, every, _MOST_OF_UNKNOWN)
    # The stages of a hierarchical model halve the resolution.
    stages = [side << stage for side in patches for stage in range(8)]
    return (
        _without_others(size, tokens, stages)
        or _after_others(size, tokens, patches, _MOST_LEADING)
        or _without_others(size, tokens, every)
    )


def _without_others(size: tuple[int, int], tokens: int, strides: Sequence[int]) -> tuple[int, int] | None:
    for stride in strides:
        # Incomplete patches are filled up, or left out.
        for height, width in ((-(-size[0] // stride), -(-size[1] // stride)), (size[0] // stride, size[1] // stride)):
            if height * width == tokens:
                return height, width
    return None


def _after_others(size: tuple[int, int], tokens: int, strides: Sequence[int], most: int) -> tuple[int, int] | None:
    """Return the only grid with a few tokens before it; models with such tokens leave incomplete patches out."""
    grids = {(size[0] // stride, size[1] // stride) for stride in strides}
    possible = [one for one in grids if one[0] * one[1] and 0 < tokens - one[0] * one[1] <= most]
    return possible[0] if len(possible) == 1 else None
