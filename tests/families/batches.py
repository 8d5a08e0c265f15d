"""Inputs as the processors make them. Image ``i`` has values of its own, in whatever batch it comes."""

from typing import Any

import torch

from .family import Batch


def drawn(shape: tuple[int, ...], item: int, seed: int) -> torch.Tensor:
    """Values of one image: noise on a level and contrast of its own."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + item)
    level, contrast = torch.rand(2, generator=generator).tolist()
    return (level - 0.5) + (0.5 + contrast) * torch.randn(shape, generator=generator)


def stacked(shape: tuple[int, ...], n: int, seed: int, start: int) -> torch.Tensor:
    """The values of ``n`` images ``(n, *shape)``."""
    return torch.stack([drawn(shape, start + i, seed) for i in range(n)])


def values(*shape: int, key: str = "pixel_values", **constants: Any) -> Batch:
    """One tensor ``(n, *shape)`` under ``key``; ``constants`` are passed as they are."""

    def batch(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
        return {key: stacked(shape, n, seed, start), **constants}

    return batch


def images(size: int = 32, channels: int = 3, **constants: Any) -> Batch:
    """``pixel_values`` of square images."""
    return values(channels, size, size, **constants)


def numbers(high: int, *shape: int, item: int, seed: int) -> torch.Tensor:
    """Integers from 0 to ``high`` (excluded) of one item."""
    generator = torch.Generator().manual_seed(7_000_003 * seed + item)
    return torch.randint(0, high, shape, generator=generator)


def joined(*batches: Batch) -> Batch:
    """The keys of several batches in one."""

    def batch(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in batches:
            found.update(each(n, seed, start))
        return found

    return batch
