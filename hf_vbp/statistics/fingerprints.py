"""Hashes of images, by which two passes over the same images are recognized."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from hf_vbp.adapters.identity import tensor_bytes

SKETCH_SIZE = 4096
PIXELS_PER_IMAGE = 8192


def hash_images(pixel_values: torch.Tensor) -> list[int]:
    """Return a 64-bit hash of each image of ``pixel_values`` ``(images, ...)``.

    At most ``PIXELS_PER_IMAGE`` evenly spaced values of an image are hashed: enough to distinguish two photographs,
    at a negligible cost.
    """
    flat = pixel_values.detach().flatten(1)
    sampled = flat[:, :: max(1, flat.shape[1] // PIXELS_PER_IMAGE)]
    rows = sampled.to("cpu").contiguous()
    return [int.from_bytes(hashlib.blake2b(tensor_bytes(row), digest_size=8).digest(), "big") for row in rows]


class ImageSketch:
    """The smallest hashes among those of all images, by which images shared by two passes are found.

    A bottom-k sketch of fixed size, the same for every order and every number of processes. It is exact for up to
    ``SKETCH_SIZE`` images; with more images, shared ones are found with a probability that grows with their number.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._hashes: set[int] = set()
        self.update(hashes)

    def update(self, hashes: Iterable[int]) -> None:
        """Add the hashes of some images."""
        self._hashes.update(hashes)
        if len(self._hashes) > SKETCH_SIZE:
            self._hashes = set(sorted(self._hashes)[:SKETCH_SIZE])

    def hashes(self) -> list[int]:
        """Return the hashes that are kept, ascending."""
        return sorted(self._hashes)

    def shared(self, other: ImageSketch) -> int:
        """Return how many of the kept hashes are also in ``other``."""
        return len(self._hashes & other._hashes)
