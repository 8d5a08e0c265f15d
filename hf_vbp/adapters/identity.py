"""The identity of a model: a hash of its site weights, its name, its dtype."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.registry import find_sites


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
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Return id, revision, type, class and dtype of ``model``, as far as its config records them."""
    config = getattr(model, "config", None)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return {
        "id": getattr(config, "_name_or_path", None) or None,
        "revision": getattr(config, "_commit_hash", None),
        "model_type": getattr(config, "model_type", None),
        "architecture": type(model).__name__,
        "dtype": str(parameter.dtype).removeprefix("torch.") if parameter is not None else None,
    }


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor of any dtype and device."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
