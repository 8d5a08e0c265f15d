"""Distances of numbers: the squared error, plain or in units of the output's variance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_vbp.output_distance.formula import Formula
from hf_vbp.output_distance.refusal import refuse_images
from hf_vbp.output_distance.rows import mean_over_positions


@dataclass(frozen=True)
class SquaredError(Formula):
    """Numbers with a unit: half of the squared error.

    ``H = I``; ``v = e`` for standard normal ``e``. The figure is the whole squared error.

    Args:
        component_dim: The dimension over which squares are added, as the coordinates of a box; None to average over
            all values, as of heat maps.
    """

    component_dim: int | None = -1
    figure: ClassVar[str] = "squared_error"
    factor: ClassVar[float] = 0.5

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        return noise

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        return {"squared_error": (pruned - dense).square().sum(-1)}


@dataclass(frozen=True)
class VarianceShare(Formula):
    """Numbers without a fixed unit: half of the squared error over the variance of the dense output of the image.

    ``H = I / var(y)``; ``v = e / std(y)``, with the variance over all values of an image that count. The figure is
    the whole share of the variance.

    Args:
        component_dim: The dimension of the components, of which each position has several; None for any shape, with
            masks for single values.
    """

    component_dim: int | None = None
    figure: ClassVar[str] = "variance_share"
    factor: ClassVar[float] = 0.5

    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        # The components of a position are averaged as well.
        return noise / (_variance(values, counted) * values.shape[-1]).sqrt()

    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        return {"variance_share": ((pruned - dense).square() / _variance(dense, counted)).mean(-1)}


def _variance(values: Tensor, counted: Tensor) -> Tensor:
    """Return the variance ``(images, 1, 1)`` over the values that count."""
    mean = mean_over_positions(values.mean(-1), counted)[:, None, None]
    variance = mean_over_positions((values - mean).square().mean(-1), counted)
    refuse_images(
        # Below the rounding of the mean there is no variance.
        variance > (4 * torch.finfo(values.dtype).eps * mean[:, 0, 0]).square(),
        "has the same value everywhere, so that a share of its variance is not defined",
        "Remove this image, or choose another kind of output.",
    )
    return variance[:, None, None]
