"""Gradients of the loss with respect to a multiplier on every hidden neuron, for criterion ``snip``."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel, prepare_sites
from hf_vbp.calibration.feed import LocalBatch
from hf_vbp.calibration.gradients import check_gradients, frozen, no_gradients
from hf_vbp.calibration.hooked_model import check_finite_pixels, device_and_dtype
from hf_vbp.calibration.source import Source
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.inputs.fit import images_of
from hf_vbp.modeling.arithmetic import accumulation_device, arithmetic_dtype, to_float64
from hf_vbp.modeling.precision import eval_mode, outside_inference_mode
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.stored_sites import with_values


@outside_inference_mode
def collect_saliency(
    model: nn.Module | PreparedModel,
    data: Iterable[Mapping[str, Any]] | Source,
    *,
    labels: str = "self",
    limit: int | None = None,
    accelerator: Any | None = None,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return ``dL/dc`` for multipliers ``c = 1`` on the hidden neurons of every site.

    ``L`` is the mean cross-entropy over the images, so the result is ``E[sum_t h_tj dL/dh_tj]``: the sum over the
    tokens of an image, the mean over the images. Each batch needs one backward pass; no parameter gets a gradient.
    Processes share the images as in :func:`hf_vbp.collect_statistics`, and all return the same values.

    Args:
        model: A classifier whose output has ``logits``. It runs in eval mode; its mode is restored afterwards.
        data: As for :func:`hf_vbp.collect_statistics`; with ``labels="given"`` the batches need ``labels``.
        labels: ``"self"`` for the model's own predictions, ``"given"`` for the labels of the batches.
        limit: Stop after this many images of the whole set.
        accelerator: The ``Accelerator`` whose processes share the pass; found from the environment when not given.
        progress: Receives the number of finished images and, where it is known, of all.

    Returns:
        ``(hidden,)`` float64 on the CPU for each site, in block order, signed.

    Raises:
        ConfigurationError: Invalid ``labels`` or ``limit``, or the model is no single-label classifier.
        DataError: There are no images, or no labels where they are needed.
        NonFiniteError: A gradient is NaN or infinite.
    """
    if labels not in ("self", "given"):
        raise ConfigurationError(f"labels must be 'self' or 'given', got {labels!r}.")
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit must be 1 or more, got {limit}.")
    source = Source.of(data, accelerator)
    prepared = prepare_sites(model, source.first)
    prepared.check_requirements("The saliency", Requirements(saliency=True))
    prepared.verified()
    processes, feed = source.processes, source.open(limit)
    recorder = _Recorder(prepared, labels)
    done = 0

    def work(batch: LocalBatch) -> None:
        nonlocal done
        if batch.hashes:
            recorder.add(batch)
            done = max(done, batch.indices[-1] + 1)
        if progress is not None:
            progress(done, feed.total)

    with recorder:
        feed.walk(work)
    images = sum(processes.gather(recorder.images))
    if not images:
        raise DataError("The data gave no images; a saliency needs at least one.")
    return [processes.sum(total.cpu()) / images for total in recorder.totals]


def with_saliency(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    data: Iterable[Mapping[str, Any]] | Source,
    *,
    limit: int | None = None,
    accelerator: Any | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Return the statistics with the saliency of every site, gathered from ``data`` in a separate pass.

    Args:
        prepared: The model that the statistics belong to.
        statistics: The statistics; they are not changed.
        data: As for :func:`collect_saliency`.
        limit: As for :func:`collect_saliency`.
        accelerator: As for :func:`collect_saliency`.
        progress: As for :func:`collect_saliency`.
    """
    saliency = collect_saliency(prepared, data, limit=limit, accelerator=accelerator, progress=progress)
    return replace(statistics, sites=with_values(statistics.sites, "saliency", saliency))


class _Recorder:
    """Multiplies the hidden neurons of every site by ones whose gradients are summed, while the context is open."""

    def __init__(self, prepared: PreparedModel, labels: str) -> None:
        self.model, self.labels = prepared.model, labels
        self.sites: Sequence[MLPSite] = prepared.sites
        self.device, self.dtype = device_and_dtype(self.model)
        dtype = arithmetic_dtype(self.dtype)
        self.images = 0
        self._multipliers = [
            torch.ones(site.intermediate_size, device=self.device, dtype=dtype, requires_grad=True)
            for site in self.sites
        ]
        sums_device = accumulation_device(self.device)
        self.totals = [
            torch.zeros(site.intermediate_size, device=sums_device, dtype=torch.float64) for site in self.sites
        ]
        self._restore = ExitStack()

    def __enter__(self) -> "_Recorder":
        self._restore.enter_context(eval_mode(self.model))
        self._restore.enter_context(frozen(self.model))
        for site, multiplier in zip(self.sites, self._multipliers, strict=True):
            self._restore.callback(site.fc2.register_forward_pre_hook(self._multiply_by(site, multiplier)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore.close()

    def add(self, batch: LocalBatch) -> None:
        """Add the gradients of the loss, summed over the images of one batch."""
        # A batch that was made in inference mode cannot take part in a backward pass.
        inputs = {
            key: value.clone() if isinstance(value, Tensor) and value.is_inference() else value
            for key, value in model_inputs(self.model, batch.inputs).items()
        }
        with torch.enable_grad():
            loss = self._loss(inputs, batch)
            if not loss.requires_grad:
                raise no_gradients(self.model, self.sites[0].name)
            found = torch.autograd.grad(loss, self._multipliers, allow_unused=True)
        # Sites that the logits do not use have the saliency 0.
        pairs = zip(found, self._multipliers, strict=True)
        gradients = [torch.zeros_like(ones) if gradient is None else gradient for gradient, ones in pairs]
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            check_finite_pixels(inputs, batch.indices)
            raise NonFiniteError(
                f"The gradients of images {batch.indices[0]} to {batch.indices[-1]} (counted from 0) hold NaN or "
                "infinity. Check these images, or load the model in float32."
            )
        for total, gradient in zip(self.totals, gradients, strict=True):
            total += to_float64(gradient)
        self.images += len(batch.hashes)

    def _loss(self, inputs: Mapping[str, Any], batch: LocalBatch) -> Tensor:
        if self.labels == "given" and batch.labels is None:
            raise DataError("labels='given' needs batches with 'labels', but they have none; use labels='self'.")
        with images_of(self.model, inputs):
            logits = getattr(self.model(**inputs), "logits", None)
        if logits is None or logits.dim() != 2:
            raise ConfigurationError(
                f"The saliency needs a model that predicts labels, but {type(self.model).__name__} returns no logits "
                "(images, labels). Use a model with a classification head, or another criterion."
            )
        logits = logits.to(arithmetic_dtype(logits.dtype))
        given = logits.detach().argmax(-1) if self.labels == "self" else torch.as_tensor(batch.labels)
        return nn.functional.cross_entropy(logits, given.to(logits.device), reduction="sum")

    def _multiply_by(
        self, site: MLPSite, multiplier: Tensor
    ) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            check_gradients(self.model, site.name)
            scaled = site.by_neuron(inputs[0]) * multiplier.to(inputs[0].dtype)
            return (site.from_neurons(scaled), *inputs[1:])

        return hook
