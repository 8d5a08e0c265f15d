"""What statistics belong to: hashes of weights and images, identities of model, data and packages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.registry import find_sites

PACKAGES = ("hf-vbp", "torch", "transformers", "accelerate", "datasets")
SKETCH_SIZE = 4096
PIXELS_PER_IMAGE = 8192


def weights_fingerprint(model: nn.Module) -> str:
    """Return the sha256 of the site weights of ``model``, in the order of the blocks.

    Shapes and dtypes are part of it; module names are not, so that one checkpoint has one fingerprint under
    every version of transformers and below any head.

    Raises:
        UnsupportedModelError: The model has no MLP sites.
    """
    return sites_fingerprint(find_sites(model))


def sites_fingerprint(sites: Iterable[MLPSite]) -> str:
    """Return the sha256 of the weights of ``sites``; see :func:`weights_fingerprint`."""
    digest = hashlib.sha256()
    for site in sites:
        for name, tensor in sorted(site.weights().items()):
            digest.update(f"{site.index} {name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Return id, revision, type, class and dtype of ``model``, as far as its config tells them."""
    config = getattr(model, "config", None)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return {
        "id": getattr(config, "_name_or_path", None) or None,
        "revision": getattr(config, "_commit_hash", None),
        "model_type": getattr(config, "model_type", None),
        "architecture": type(model).__name__,
        "dtype": str(parameter.dtype).removeprefix("torch.") if parameter is not None else None,
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that take part in a pass."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hash_images(pixel_values: torch.Tensor) -> list[int]:
    """Return a 64-bit hash of each image of ``pixel_values`` ``(images, ...)``.

    At most ``PIXELS_PER_IMAGE`` evenly spaced values of an image are hashed: enough to tell two photographs
    apart, too few to cost anything.
    """
    flat = pixel_values.detach().flatten(1)
    sampled = flat[:, :: max(1, flat.shape[1] // PIXELS_PER_IMAGE)]
    rows = sampled.to("cpu").contiguous()
    return [int.from_bytes(hashlib.blake2b(_bytes(row), digest_size=8).digest(), "big") for row in rows]


class ImageSketch:
    """The smallest hashes among those of all images: tells whether two passes saw the same images.

    A bottom-k sketch: of fixed size, the same for every order and every number of processes, and exact as long
    as no more than ``SKETCH_SIZE`` images were seen; beyond, shared images are found with a probability that
    grows with their number.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._hashes: set[int] = set()
        self.update(hashes)

    def update(self, hashes: Iterable[int]) -> None:
        """Take in the hashes of some images."""
        self._hashes.update(hashes)
        if len(self._hashes) > SKETCH_SIZE:
            self._hashes = set(sorted(self._hashes)[:SKETCH_SIZE])

    def hashes(self) -> list[int]:
        """Return the hashes that are kept, ascending."""
        return sorted(self._hashes)

    def shared(self, other: ImageSketch) -> int:
        """Return how many of the kept hashes are also in ``other``."""
        return len(self._hashes & other._hashes)


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
