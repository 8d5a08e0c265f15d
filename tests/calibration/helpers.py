"""Captured activations, and a brute-force metric, to compare with."""

from collections.abc import Iterable
from typing import Any

import torch

from hf_vbp.adapters.registry import find_sites
from hf_vbp.config.requirements import Requirements

DIAGONAL = Requirements()
FULL = Requirements(covariances=True, halves=True)
METRIC = Requirements(output_metric=True)
EVERYTHING = Requirements(covariances=True, output_metric=True, token_weights=True, halves=True)


def capture(model: Any, batches: Iterable[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Return the activations of every site, ``(tokens, hidden)`` float64, from a plain forward pass."""
    sites = find_sites(model)
    seen: list[list[torch.Tensor]] = [[] for _ in sites]
    handles = [
        site.fc2.register_forward_pre_hook(
            lambda module, inputs, index=site.index: seen[index].append(inputs[0].detach().double().flatten(0, -2))
        )
        for site in sites
    ]
    parameter = next(model.parameters())
    try:
        with torch.no_grad():
            for batch in batches:
                model(pixel_values=batch["pixel_values"].to(parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(values) for values in seen]


def images(count: int, seed: int = 7) -> torch.Tensor:
    """Return ``count`` random images ``(count, 3, 32, 32)``."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def in_batches(values: torch.Tensor, size: int) -> list[dict[str, torch.Tensor]]:
    """Cut images into batches."""
    return [{"pixel_values": part} for part in values.split(size)]


def kept(statistics: Any, ratio: float = 0.5) -> list[int]:
    """Return the neurons that the paper's criterion keeps, numbered through all sites."""
    variance = torch.cat([site.moments.variance for site in statistics.sites])
    order: list[int] = variance.argsort(stable=True)[round(ratio * len(variance)) :].tolist()
    return sorted(order)
