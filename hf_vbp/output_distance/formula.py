"""The interface of a distance between two outputs: its cotangents and its figures."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError
from hf_vbp.modeling.arithmetic import arithmetic_dtype, to_float64
from hf_vbp.output_distance.noise import ImageNoise, check_numbers
from hf_vbp.output_distance.refusal import naming_the_image, refuse_images
from hf_vbp.output_distance.rows import (
    counted_positions,
    from_rows,
    mean_over_positions,
    to_rows,
)

# Values that are processed at once, 128 MiB in float64: dense predictions of a batch may be gigabytes.
_VALUES_AT_ONCE = 1 << 24


class Formula(ABC):
    """A distance of two outputs of the same images, and random cotangents of its second derivative.

    An output has images, positions (queries, pixels, tokens) and components (classes, coordinates). The distance of
    an image is the mean over its positions, so that an image counts the same with any number of them. Distances are
    in nats: they are Kullback-Leibler divergences of a distribution around the output, of unit variance for a squared
    error. They can therefore be added.
    """

    component_dim: int | None
    """The dimension of the output that holds the components; None for one component per position."""
    figure: ClassVar[str]
    """The name of the figure that the distance is a multiple of."""
    factor: ClassVar[float] = 1.0
    """The distance divided by that figure."""
    open_below: ClassVar[bool] = False
    """Whether an output may be minus infinity."""

    @torch.no_grad()
    def cotangent(self, output: Tensor, noise: ImageNoise, mask: Tensor | None = None) -> Tensor:
        """Return a random cotangent ``v`` with ``E[v v^T] = H``, the second derivative of the distance at ``output``.

        Args:
            output: The dense model's output, ``(images, ...)``, any floating dtype.
            noise: The noise of these images.
            mask: Bool, the shape of the output without its components, or leading dimensions of it; True where a
                position counts. The cotangent is zero elsewhere.

        Returns:
            The shape of ``output``; float64 for a float64 output, otherwise float32.

        Raises:
            ConfigurationError: The output or the mask has an unexpected shape, or the noise is for other images.
            DataError: The mask leaves nothing of an image.
            NonFiniteError: The output is not finite, or has no scale where the distance needs one.
        """
        rows = to_rows(output.detach(), self.component_dim)
        counted = counted_positions(mask, output, self.component_dim)
        check_numbers(noise.images, len(rows))
        found = []
        for part in _parts(rows):
            few, some = noise.of(part), counted[part]
            with naming_the_image(noise.images, part.start):
                values = self._checked(rows[part].to(arithmetic_dtype(output.dtype)), some)
                e = few.at(some, self._noise_width(values.shape[-1])).to(values.dtype)
                v = self._cotangent(values, e, some, few.images)
            v = v / some.sum(1).to(v.dtype).sqrt()[:, None, None]
            found.append(torch.where(some[..., None], v, 0.0))
        return from_rows(torch.cat(found), output.shape, self.component_dim)

    def distance(
        self, dense: Tensor, pruned: Tensor, mask: Tensor | None = None, images: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return how far the outputs of the pruned model are from those of the dense one, for each image.

        Args:
            dense: Output of the dense model, ``(images, ...)``.
            pruned: Output of the pruned model, the same shape.
            mask: As in :meth:`cotangent`.
            images: Number of each image in the whole set, where a bank of neighbors contains them.

        Returns:
            ``(images,)`` float64 for ``distance``, whose second derivative the cotangents have, and for the figures.
            Gradients flow to ``pruned``.

        Raises:
            ConfigurationError: The shapes differ or are unexpected.
            DataError: The mask leaves nothing of an image.
            NonFiniteError: An output is not finite, or has no scale where the distance needs one.
        """
        if dense.shape != pruned.shape:
            raise ConfigurationError(
                f"The outputs have the shapes {tuple(dense.shape)} and {tuple(pruned.shape)}: compare the same output "
                "of both models for the same images."
            )
        before, after = to_rows(dense, self.component_dim), to_rows(pruned, self.component_dim)
        counted = counted_positions(mask, dense, self.component_dim)
        if images is not None:
            check_numbers(images, len(before))
        found: dict[str, list[Tensor]] = {}
        for part in _parts(before):
            few = None if images is None else images[part]
            with naming_the_image(images, part.start):
                first, second = (self._checked(to_float64(rows[part]), counted[part]) for rows in (before, after))
                some = counted[part].to(first.device)
                figures = self._figures(first, second.to(first.device), some, few)
            for name, values in figures.items():
                found.setdefault(name, []).append(mean_over_positions(values, some))
        means = {name: torch.cat(values) for name, values in found.items()}
        return {"distance": means[self.figure] * self.factor, **means}

    @abstractmethod
    def _cotangent(self, values: Tensor, noise: Tensor, counted: Tensor, images: Sequence[int]) -> Tensor:
        """Return cotangents ``(images, positions, components)`` of the distance of every position."""

    @abstractmethod
    def _figures(
        self, dense: Tensor, pruned: Tensor, counted: Tensor, images: Sequence[int] | None
    ) -> dict[str, Tensor]:
        """Return figures ``(images, positions)`` of every position."""

    def _noise_width(self, components: int) -> int:
        return components

    def _checked(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return the values with zeros where they do not count, and refuse NaN and infinity elsewhere."""
        values = torch.where(counted[..., None].to(values.device), values, 0.0)
        finite = values.isfinite()
        if self.open_below:
            finite |= values == -torch.inf
        refuse_images(
            finite.flatten(1).all(1), "holds NaN or infinity", "Check this image, or load the model in float32."
        )
        return values


def _parts(rows: Tensor) -> Iterator[slice]:
    """Yield slices of the images, each of at least one image and few enough values to be processed at once."""
    step = max(1, _VALUES_AT_ONCE // rows[0].numel())
    yield from (slice(start, min(start + step, len(rows))) for start in range(0, len(rows), step))
