"""Several models over the same images in one pass."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.errors import ConfigurationError, DataError, LabelError, NonFiniteError, UnsupportedModelError
from hf_vbp.evaluation.measures import kl_divergences, top_classes
from hf_vbp.evaluation.metrics import Agreement, KLDivergence, Top1Accuracy, Top5Accuracy
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.inputs.example import example_batch
from hf_vbp.inputs.fit import images_of
from hf_vbp.modeling.precision import own_precision


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model. A figure that could not be measured is None.

    Attributes:
        images: The number of images.
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


class _Figures:
    """The metrics of one model, which take a few values of each image."""

    def __init__(self) -> None:
        self._images = self._labelled = self._compared = 0
        self._top1, self._top5 = Top1Accuracy(), Top5Accuracy()
        self._agreement, self._kl = Agreement(), KLDivergence()

    def add(self, logits: torch.Tensor, labels: torch.Tensor | None, reference: torch.Tensor | None) -> None:
        self._images += len(logits)
        chosen = top_classes(logits, 1)[:, 0].tolist()
        if labels is not None:
            self._labelled += len(logits)
            known = labels.tolist()
            self._top1.add_batch(predictions=chosen, references=known)
            self._top5.add_batch(predictions=top_classes(logits, 5).tolist(), references=known)
        if reference is not None:
            self._compared += len(logits)
            self._agreement.add_batch(predictions=chosen, references=top_classes(reference, 1)[:, 0].tolist())
            self._kl.add_batch(predictions=kl_divergences(reference, logits).tolist())

    def result(self) -> Evaluation:
        found: dict[str, Any] = {"images": self._images}
        # Accuracies of some of the images would not compare with the other figures.
        if self._labelled == self._images:
            top1 = self._top1.compute()
            found |= {"top1": top1["top1"], "top1_interval": tuple(top1["top1_interval"])}
            found["top5"] = self._top5.compute()["top5"]
        if self._compared:
            found |= {"agreement": self._agreement.compute()["agreement"], "kl": self._kl.compute()["kl"]}
        return Evaluation(**found)


def evaluate_models(
    models: Mapping[str, nn.Module],
    loader: Iterable[Mapping[str, Any]],
    *,
    reference: str | None = "dense",
    progress: Progress | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Evaluation]:
    """Measure models on the same batches, in one pass.

    Each model computes in its own dtype, also inside autocast and after ``accelerator.prepare``; the figures are
    computed from its logits in float64 by the metrics of :mod:`hf_vbp.evaluation.metrics`. Batches without ``labels``
    give agreement and KL only. Mode and device of the models are restored.

    Args:
        models: The models by name. Their outputs must have ``logits`` ``(n, classes)`` for one label per image.
        loader: Batches with ``pixel_values`` ``(n, 3, h, w)`` and optionally ``labels`` ``(n,)``: the
            result of :func:`hf_vbp.load_images`, or any iterable of dicts.
        reference: The model that agreement and KL compare with; it has neither itself. None for no comparison.
        progress: Receives the number of finished images and, where it is known, of all.
        device: The device to compute on; by default that of each model.

    Returns:
        An :class:`Evaluation` for each name.

    Raises:
        ConfigurationError: There is no such reference, or the models have different numbers of classes.
        DataError: There are no images.
        LabelError: A label is not one of the classes of a model, or an image has several.
        UnsupportedModelError: A model is no classifier with one label per image.
        NonFiniteError: A model gives NaN or infinite logits.
    """
    if not models or (reference is not None and reference not in models):
        raise ConfigurationError(
            f"The reference {reference!r} is not among the models ({', '.join(models) or 'none were given'}): name "
            f"one of them, or pass reference=None."
        )
    for name, model in models.items():
        _check_task(model, name)
    # The result of load_images holds the loader, whose data set has the number of images.
    loader = getattr(loader, "loader", loader)
    figures = {name: _Figures() for name in models}
    total, done = _total(loader), 0
    with ExitStack() as stack:
        stack.enter_context(own_precision(*models.values()))
        for model in models.values():
            stack.enter_context(_evaluating(model, device))
        for batch in loader:
            done += _add_batch(models, figures, batch, reference)
            if progress is not None:
                progress(done, total)
    if done == 0:
        raise DataError("There are no images to evaluate on: the loader gave none.")
    return {name: found.result() for name, found in figures.items()}


def check_classifier(model: nn.Module, name: str = "The model") -> None:
    """Refuse a model that cannot be evaluated, before any work; runs it on one made image.

    The figures of an evaluation have no meaning for regression, for several labels per image, and for outputs that are
    not ``(images, classes)``.

    Args:
        model: A vision model of transformers.
        name: The name of the model for the message.

    Raises:
        UnsupportedModelError: The model does not choose one of several classes for each image.
    """
    _check_task(model, name)
    with own_precision(model), _evaluating(model, None), torch.no_grad():
        _check_logits(model, name, model(**model_inputs(model, example_batch(model))), 1)


def _check_task(model: Any, name: str) -> None:
    """Refuse a model whose config describes anything else than one label per image."""
    config = getattr(model, "config", None)
    problem, labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    if problem in ("regression", "multi_label_classification") or labels == 1:
        kind = "several labels per image" if problem == "multi_label_classification" else "a number per image"
        raise UnsupportedModelError(
            f"{name} is a {type(model).__name__} that predicts {kind} (problem_type {problem}, {labels} labels): "
            f"top-1, agreement and KL are defined for models that choose one of several classes. Measure it on your "
            f"own task, without evaluation images here."
        )


def _check_logits(model: nn.Module, name: str, outputs: Any, images: int) -> torch.Tensor:
    """Return the logits ``(images, classes)`` of an output, or refuse the model."""
    logits = getattr(outputs, "logits", None)
    advice = "evaluate a model for image classification, or prune without evaluation images."
    if not isinstance(logits, torch.Tensor):
        raise UnsupportedModelError(f"{name} is a {type(model).__name__}, which gives no logits: {advice}")
    if logits.ndim != 2 or len(logits) != images or logits.shape[1] < 2:
        raise UnsupportedModelError(
            f"{name} is a {type(model).__name__}, whose logits have the shape {tuple(logits.shape)} for "
            f"{images} images; expected (images, classes): {advice}"
        )
    return logits


def _add_batch(
    models: Mapping[str, nn.Module],
    figures: Mapping[str, _Figures],
    batch: Mapping[str, Any],
    reference: str | None,
) -> int:
    """Add one batch to the figures; return its number of images."""
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
        figures[name].add(logits, None if labels is None else labels.cpu(), against)
    return len(pixel_values)


def _check_labels(labels: torch.Tensor, classes: int, name: str) -> None:
    if labels.ndim != 1 or labels.is_floating_point():
        raise LabelError(
            f"The labels of a batch are {labels.dtype} of shape {tuple(labels.shape)}; expected one class id for each "
            f"image, (images,) int64."
        )
    for label in (int(labels.max()), int(labels.min())):
        if not 0 <= label < classes:
            raise LabelError(
                f"The label {label} is beyond the {classes} classes of {name}: pass id2label to load_images, so that "
                f"the classes of the data are matched with those of the model."
            )


@torch.no_grad()
def _logits(model: nn.Module, name: str, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the logits ``(n, classes)`` float64 on the CPU."""
    inputs = model_inputs(model, {"pixel_values": pixel_values})
    with images_of(model, inputs):
        outputs = model(**inputs)
    logits = _check_logits(model, name, outputs, len(pixel_values))
    logits = logits.cpu().double()
    if not bool(torch.isfinite(logits).all()):
        raise NonFiniteError(f"{name} gives logits that are NaN or infinite: its weights or images are damaged.")
    return logits


@contextmanager
def _evaluating(model: nn.Module, device: str | torch.device | None) -> Any:
    """Put a model into eval mode and on the device, and restore both at the end."""
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
    """Return the number of images of a loader, where its data set has a length."""
    try:
        return len(loader.dataset)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return None
