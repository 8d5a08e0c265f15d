"""Gradients of the loss with respect to a multiplier on every hidden neuron, for criterion ``snip``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError
from hf_vbp.modeling.precision import outside_inference_mode
from hf_vbp.statistics.activation_statistics import ActivationStatistics


@outside_inference_mode
def collect_saliency(
    model: nn.Module | PreparedModel,
    data: Iterable[Mapping[str, Any]],
    *,
    labels: str = "self",
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return ``dL/dc`` for multipliers ``c = 1`` on the hidden neurons of every site.

    ``L`` is the mean cross-entropy over the images, so the result is ``E[sum_t h_tj dL/dh_tj]``: the sum over
    the tokens of an image, the mean over the images. One backward pass per batch; no parameter gets a gradient.

    Args:
        model: A classifier whose output has ``logits``; put into eval mode for the pass and back afterwards.
        data: Batches with ``pixel_values`` and, for ``labels="given"``, ``labels``.
        labels: ``"self"`` for the model's own predictions, ``"given"`` for the labels of the batches.
        limit: Stop after so many images.
        progress: Called with the number of images done and, where known, of all.

    Returns:
        ``(hidden,)`` float64 on the CPU for each site, in block order, signed.

    Raises:
        ConfigurationError: Invalid ``labels`` or ``limit``, or the model is no single-label classifier.
        DataError: No images, or no labels where they were asked for.
        NonFiniteError: A gradient is NaN or infinite.
    """
    if labels not in ("self", "given"):
        raise ConfigurationError(f"labels must be 'self' or 'given', not {labels!r}")
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit must be 1 or more, not {limit}")
    prepared = prepare(model)
    prepared.check_requirements("The saliency", Requirements(saliency=True))
    network = prepared.model
    recorder = _Recorder(prepared.sites)
    done, training = 0, network.training
    network.eval()
    try:
        for batch in getattr(data, "loader", data):
            count = len(batch["pixel_values"])
            count = count if limit is None else min(count, limit - done)
            recorder.take(_loss(network, batch, labels, count))
            done += count
            if progress is not None:
                progress(done, limit)
            if done == limit:
                break
    finally:
        recorder.close()
        network.train(training)
    if not done:
        raise DataError("the data loader gave no images; a saliency needs at least one")
    saliency = [total.cpu() / done for total in recorder.totals]
    if not all(torch.isfinite(site_saliency).all() for site_saliency in saliency):
        raise NonFiniteError("the gradients hold NaN or infinity; look for such values in the images, or use float32")
    return saliency


def with_saliency(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    data: Iterable[Mapping[str, Any]],
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Return the statistics with the saliency of every site, gathered from ``data`` in a pass of its own.

    Args:
        prepared: The model that the statistics belong to.
        statistics: The statistics; they are not changed.
        data: As for :func:`collect_saliency`.
        limit: As for :func:`collect_saliency`.
        progress: As for :func:`collect_saliency`.
    """
    saliency = collect_saliency(prepared, data, limit=limit, progress=progress)
    sites = tuple(replace(site, saliency=s) for site, s in zip(statistics.sites, saliency, strict=True))
    return replace(statistics, sites=sites)


class _Recorder:
    """Multiplies the hidden neurons of every site by ones that gather gradients."""

    def __init__(self, sites: Sequence[MLPSite]) -> None:
        self._multipliers = [
            torch.ones(site.intermediate_size, device=site.fc2.weight.device, requires_grad=True) for site in sites
        ]
        self.totals = [torch.zeros_like(c, dtype=torch.float64, requires_grad=False) for c in self._multipliers]
        self._handles = [
            site.fc2.register_forward_pre_hook(self._hook(multiplier))
            for site, multiplier in zip(sites, self._multipliers, strict=True)
        ]

    def take(self, loss: Tensor) -> None:
        """Add the gradients of ``loss``, a sum over the images of one batch."""
        gradients = torch.autograd.grad(loss, self._multipliers)
        for total, gradient in zip(self.totals, gradients, strict=True):
            total += gradient.double()

    def close(self) -> None:
        """Take the multipliers off the model."""
        for handle in self._handles:
            handle.remove()

    @staticmethod
    def _hook(multiplier: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor, ...]]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] * multiplier.to(inputs[0].dtype), *inputs[1:])

        return hook


def _loss(model: nn.Module, batch: Mapping[str, Any], labels: str, count: int) -> Tensor:
    parameter = next(model.parameters())
    pixel_values = batch["pixel_values"][:count].to(parameter.device, parameter.dtype)
    if pixel_values.is_inference():
        # A batch that was made in inference mode cannot take part in a backward pass.
        pixel_values = pixel_values.clone()
    with torch.enable_grad():
        logits: Tensor = model(pixel_values=pixel_values).logits.float()
    if labels == "self":
        target = logits.detach().argmax(-1)
    elif "labels" in batch:
        target = batch["labels"][:count].to(logits.device)
    else:
        raise DataError("labels='given' was asked for and the batches have no 'labels'; use labels='self'")
    return nn.functional.cross_entropy(logits, target, reduction="sum")
