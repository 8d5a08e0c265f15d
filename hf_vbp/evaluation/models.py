"""Several models over the same images in one pass."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_vbp.errors import ConfigurationError, DataError, LabelError, NonFiniteError, UnsupportedModelError
from hf_vbp.evaluation.measures import kl_divergences, top_k_hits, wilson_interval
from hf_vbp.modeling.precision import own_precision

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model. A figure that could not be measured is None.

    Attributes:
        images: How many images.
        top1: Share whose label has the highest logit.
        top1_interval: Its 95 % Wilson interval.
        top5: Share whose label is among the 5 highest logits (all, where there are fewer classes).
        agreement: Share with the same highest logit as the reference model.
        kl: Mean of KL(reference || model) over the images, in nats.
    """

    images: int
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    top5: float | None = None
    agreement: float | None = None
    kl: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that were measured, as in ``vbp_results.json``."""
        figures = {
            "images": self.images,
            "top1": self.top1,
            "top1_interval": None if self.top1_interval is None else list(self.top1_interval),
            "top5": self.top5,
            "agreement": self.agreement,
            "kl": self.kl,
        }
        return {name: value for name, value in figures.items() if value is not None}


@dataclass
class _Tally:
    """Running sums of one model."""

    images: int = 0
    labelled: int = 0
    top1: int = 0
    top5: int = 0
    agreeing: int = 0
    kl: list[float] = field(default_factory=list)

    def add(self, logits: torch.Tensor, labels: torch.Tensor | None, reference: torch.Tensor | None) -> None:
        self.images += len(logits)
        if labels is not None:
            self.labelled += len(logits)
            self.top1 += int(top_k_hits(logits, labels, 1).sum())
            self.top5 += int(top_k_hits(logits, labels, 5).sum())
        if reference is not None:
            self.agreeing += int((logits.argmax(dim=-1) == reference.argmax(dim=-1)).sum())
            self.kl.append(float(kl_divergences(reference, logits).sum()))

    def result(self) -> Evaluation:
        labelled = self.labelled == self.images
        return Evaluation(
            images=self.images,
            top1=self.top1 / self.images if labelled else None,
            top1_interval=wilson_interval(self.top1, self.images) if labelled else None,
            top5=self.top5 / self.images if labelled else None,
            agreement=self.agreeing / self.images if self.kl else None,
            kl=sum(self.kl) / self.images if self.kl else None,
        )


def evaluate_models(
    models: Mapping[str, nn.Module],
    loader: Iterable[Mapping[str, Any]],
    *,
    reference: str | None = "dense",
    progress: Progress | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Evaluation]:
    """Measure models on the same batches, in one pass.

    Each model computes in its own dtype, also inside autocast and after ``accelerator.prepare``; the figures are made
    from its logits in float64. Batches without ``labels`` give agreement and KL only. Models are left as they were, in
    mode and on their device.

    Args:
        models: The models by name. Their output must have ``logits`` ``(n, classes)``.
        loader: Batches with ``pixel_values`` ``(n, 3, h, w)`` and perhaps ``labels`` ``(n,)``.
        reference: Which of them agreement and KL are told against; it has none itself. None for neither.
        progress: Called with the images done and, where the loader says it, their total.
        device: Where to compute; by default where each model is.

    Returns:
        An :class:`Evaluation` for each name.

    Raises:
        ConfigurationError: There is no such reference.
        DataError: There are no images.
        LabelError: A label is beyond the classes of a model.
        UnsupportedModelError: A model gives no logits.
        NonFiniteError: A model gives NaN or infinite logits.
    """
    if not models or (reference is not None and reference not in models):
        raise ConfigurationError(
            f"The reference {reference!r} is not among the models ({', '.join(models) or 'none were given'}): name "
            f"one of them, or pass reference=None."
        )
    tallies = {name: _Tally() for name in models}
    total, done = _total(loader), 0
    with ExitStack() as stack:
        stack.enter_context(own_precision(*models.values()))
        for model in models.values():
            stack.enter_context(_evaluating(model, device))
        for batch in loader:
            done += _add_batch(models, tallies, batch, reference)
            if progress is not None:
                progress(done, total)
    if done == 0:
        raise DataError("There are no images to evaluate on: the loader gave none.")
    return {name: tally.result() for name, tally in tallies.items()}


def _add_batch(
    models: Mapping[str, nn.Module],
    tallies: Mapping[str, _Tally],
    batch: Mapping[str, Any],
    reference: str | None,
) -> int:
    """Add one batch to the tallies; return its number of images."""
    if "pixel_values" not in batch:
        raise DataError(f"A batch has {', '.join(batch) or 'nothing'}, but no pixel_values.")
    pixel_values, labels = batch["pixel_values"], batch.get("labels")
    expected = None if reference is None else _logits(models[reference], reference, pixel_values)
    for name, model in models.items():
        own = name == reference
        logits = expected if own and expected is not None else _logits(model, name, pixel_values)
        if labels is not None:
            _check_labels(labels, logits.shape[-1], name)
        if expected is not None and logits.shape != expected.shape:
            raise ConfigurationError(
                f"{name} has {logits.shape[-1]} classes and {reference} {expected.shape[-1]}: they cannot be compared."
            )
        against = None if own else expected
        tallies[name].add(logits, None if labels is None else labels.cpu(), against)
    return len(pixel_values)


def _check_labels(labels: torch.Tensor, classes: int, name: str) -> None:
    for label in (int(labels.max()), int(labels.min())):
        if not 0 <= label < classes:
            raise LabelError(
                f"The label {label} is beyond the {classes} classes of {name}: pass id2label to load_images, so that "
                f"the classes of the data are matched with those of the model."
            )


@torch.inference_mode()
def _logits(model: nn.Module, name: str, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the logits ``(n, classes)`` float64 on the CPU."""
    parameter = next(model.parameters())
    outputs = model(pixel_values=pixel_values.to(parameter.device, parameter.dtype))
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, torch.Tensor):
        raise UnsupportedModelError(
            f"{name} is a {type(model).__name__}, which gives no logits: evaluate a model for image classification."
        )
    logits = logits.cpu().double()
    if not bool(torch.isfinite(logits).all()):
        raise NonFiniteError(f"{name} gives logits that are NaN or infinite: its weights or images are damaged.")
    return logits


@contextmanager
def _evaluating(model: nn.Module, device: str | torch.device | None) -> Any:
    """Put a model into eval mode and onto the device, and back at the end."""
    training, home = model.training, next(model.parameters()).device
    model.eval()
    if device is not None:
        model.to(device)
    try:
        yield
    finally:
        model.train(training)
        if device is not None:
            model.to(home)


def _total(loader: Iterable[Any]) -> int | None:
    """Return how many images a loader has, where its data set has a length."""
    try:
        return len(loader.dataset)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return None
