"""Gradients of the loss with respect to a multiplier on every hidden neuron: what the criterion ``snip`` needs."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError

Progress = Callable[[int, int | None], None]


def collect_saliency(
    model: nn.Module,
    dataloader: Iterable[Mapping[str, Any]],
    *,
    labels: str = "self",
    max_images: int | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return ``dL/dc`` for multipliers ``c = 1`` on the hidden neurons of every site.

    ``L`` is the mean cross-entropy over the images, so the result is ``E[sum_t h_tj dL/dh_tj]``: the sum over
    the tokens of an image, the mean over the images. One backward pass per batch; no parameter gets a gradient.

    Args:
        model: A classifier whose output has ``logits``; put into eval mode for the pass and back afterwards.
        dataloader: Batches with ``pixel_values`` and, for ``labels="given"``, ``labels``.
        labels: ``"self"`` for the model's own predictions, ``"given"`` for the labels of the batches.
        max_images: Stop after so many images.
        progress: Called with the number of images done and, where known, of all.

    Returns:
        ``(hidden,)`` float64 on the CPU for each site, in block order, signed.

    Raises:
        ConfigurationError: ``labels`` or ``max_images`` cannot be meant.
        DataError: No images, or no labels where they were asked for.
        NonFiniteError: A gradient is NaN or infinite.
    """
    if labels not in ("self", "given"):
        raise ConfigurationError(f"labels must be 'self' or 'given', not {labels!r}")
    if max_images is not None and max_images < 1:
        raise ConfigurationError(f"max_images must be 1 or more, not {max_images}")
    recorder = _Recorder(model)
    done, training = 0, model.training
    model.eval()
    try:
        for batch in dataloader:
            count = len(batch["pixel_values"])
            count = count if max_images is None else min(count, max_images - done)
            recorder.take(_loss(model, batch, labels, count))
            done += count
            if progress is not None:
                progress(done, max_images)
            if done == max_images:
                break
    finally:
        recorder.close()
        model.train(training)
    if not done:
        raise DataError("the data loader gave no images; a saliency needs at least one")
    saliency = [total.cpu() / done for total in recorder.totals]
    if not all(torch.isfinite(site_saliency).all() for site_saliency in saliency):
        raise NonFiniteError("the gradients hold NaN or infinity; look for such values in the images, or use float32")
    return saliency


class _Recorder:
    """Multiplies the hidden neurons of every site by ones that gather gradients."""

    def __init__(self, model: nn.Module) -> None:
        sites = find_sites(model)
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
    with torch.enable_grad():
        logits: Tensor = model(pixel_values=pixel_values).logits.float()
    if labels == "self":
        target = logits.detach().argmax(-1)
    elif "labels" in batch:
        target = batch["labels"][:count].to(logits.device)
    else:
        raise DataError("labels='given' was asked for and the batches have no 'labels'; use labels='self'")
    return nn.functional.cross_entropy(logits, target, reduction="sum")
