"""The pass: images through the model, statistics out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from hf_vbp.adapters import MLPSite, check_finite_weights, find_sites
from hf_vbp.errors import ConfigurationError, DataError, StatisticsError
from hf_vbp.statistics.accumulator import SiteAccumulator, half_spans
from hf_vbp.statistics.fingerprints import (
    ImageSketch,
    hash_images,
    model_identity,
    package_versions,
    sites_fingerprint,
)
from hf_vbp.statistics.store import ActivationStatistics

logger = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]


def collect_statistics(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    moments: Literal["diagonal", "full"] = "diagonal",
    max_images: int | None = None,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ActivationStatistics:
    """Gather the statistics of every MLP site over every token of every image.

    Args:
        model: A transformers vision model; put into eval mode for the pass and back afterwards.
        dataloader: Batches with ``pixel_values`` ``(images, channels, height, width)``.
        moments: ``"diagonal"`` for means and variances, ``"full"`` for co-moments as well.
        max_images: Stop after so many images.
        progress: Called with the number of images done and, where known, of all.
        provenance: What the images are (data set, revision, split, processor), kept in the file.

    Returns:
        The statistics, ready to be saved or to make a plan from.
    """
    if moments not in ("diagonal", "full"):
        raise ConfigurationError(f'moments must be "diagonal" or "full", not {moments!r}')
    if max_images is not None and max_images < 1:
        raise ConfigurationError(f"max_images must be at least 1, not {max_images}")
    sites = find_sites(model)
    check_finite_weights(tuple(sites))
    accumulators = [SiteAccumulator(site, full=moments == "full", metric=False) for site in sites]
    images, sketch = _run(model, dataloader, accumulators, max_images, progress)
    if not images:
        raise DataError("the data loader gave no images; statistics need at least one")
    identity = model_identity(model)
    fingerprints = {
        "weights": sites_fingerprint(sites),
        "dtype": identity.pop("dtype"),
        "model": identity,
        "data": dict(provenance or {}),
        "images": images,
        "tokens": 0,
        "moments": moments,
        "output_metric": None,
        "image_sketch": sketch.hashes(),
        "versions": package_versions(),
    }
    statistics = ActivationStatistics(tuple(a.statistics() for a in accumulators), fingerprints)
    fingerprints["tokens"] = statistics.tokens
    return statistics


def _run(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    accumulators: list[SiteAccumulator],
    max_images: int | None,
    progress: Progress | None,
) -> tuple[int, ImageSketch]:
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    done, sketch = 0, ImageSketch()
    training = model.training
    model.eval()
    try:
        for batch in dataloader:
            pixel_values = batch["pixel_values"]
            if max_images is not None:
                pixel_values = pixel_values[: max_images - done]
            sketch.update(hash_images(pixel_values))
            spans = half_spans(range(done, done + len(pixel_values)))
            _forward(model, pixel_values.to(parameter.device, parameter.dtype), accumulators, spans)
            done += len(pixel_values)
            if progress is not None:
                progress(done, max_images)
            if max_images is not None and done >= max_images:
                break
    finally:
        model.train(training)
    return done, sketch


def _forward(
    model: nn.Module,
    pixel_values: torch.Tensor,
    accumulators: list[SiteAccumulator],
    spans: list[tuple[int, int, int]],
) -> None:
    images = len(pixel_values)

    def hook_of(accumulator: SiteAccumulator) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            accumulator.add(by_image(inputs[0].detach(), images, accumulator.site), spans)

        return hook

    handles = [a.site.fc2.register_forward_pre_hook(hook_of(a)) for a in accumulators]
    try:
        with torch.inference_mode():
            model(pixel_values=pixel_values)
    finally:
        for handle in handles:
            handle.remove()


def by_image(hidden_states: torch.Tensor, images: int, site: MLPSite) -> torch.Tensor:
    """Return ``hidden_states`` ``(..., hidden)`` as ``(images, tokens, hidden)``.

    Raises:
        StatisticsError: The leading dimension does not go by images.
    """
    if hidden_states.shape[0] % images:
        raise StatisticsError(
            f"site {site.name} sees activations of shape {tuple(hidden_states.shape)} for {images} images; "
            "expected the images to come first"
        )
    return hidden_states.reshape(images, -1, hidden_states.shape[-1])
