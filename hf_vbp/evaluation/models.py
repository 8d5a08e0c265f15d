"""Several models over the same images in one pass."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import Progress
from hf_vbp.errors import ConfigurationError, DataError, LabelError, UnsupportedModelError
from hf_vbp.evaluation.accumulators import Features
from hf_vbp.evaluation.figures import Evaluation
from hf_vbp.evaluation.model_figures import ModelFigures
from hf_vbp.evaluation.neighbors import number_of_neighbors
from hf_vbp.evaluation.output_error import OutputErrors
from hf_vbp.evaluation.outputs import output_of
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import Task, task_of
from hf_vbp.inputs.batch import count_images, model_inputs
from hf_vbp.inputs.example import example_batch
from hf_vbp.inputs.mixed_batch import each_batch
from hf_vbp.modeling.precision import eval_mode, own_precision


def evaluate_models(
    models: Mapping[str, nn.Module],
    data: Iterable[Mapping[str, Any]],
    *,
    reference: str | None = "dense",
    measures: Measures | None = None,
    output_errors: OutputErrors | None = None,
    progress: Progress | None = None,
    device: str | torch.device | None = None,
) -> dict[str, Evaluation]:
    """Measure models on the same batches, in one pass.

    Classifiers have accuracies, agreement and KL. For every other kind of output the distance from the reference model
    is measured (docs/output_distance.md); labels of several labels per image and of regressions are compared with it.
    Backbones, dual encoders, detectors, segmenters and depth models are compared with annotations as ``measures``
    describes.

    Each model computes in its own dtype, also inside autocast and after ``accelerator.prepare``; the figures are
    computed in float64. Mode and device of the models are restored.

    Args:
        models: The models by name.
        data: Batches that the processor of the models made, optionally with ``labels``: the result of
            :func:`hf_vbp.load_images`, or any iterable of dicts.
        reference: The model that the others are compared with; it has no such figures itself. None for no comparison.
        measures: A bank of neighbors, class-name prompts, or metrics of annotated images.
        output_errors: Compares the outputs of the MLPs of two of the models in the same pass, the reference first.
        progress: Receives the number of finished images and, where it is known, of all.
        device: The device to compute on; by default that of each model.

    Returns:
        An :class:`Evaluation` for each name.

    Raises:
        ConfigurationError: There is no such reference, the models have different outputs, or ``measures`` do not fit.
        DataError: There are no images.
        LabelError: Labels have another form than the output, or are not among the classes of a model.
        UnsupportedModelError: The kind of output of a model is not known, or nothing of it can be measured.
        NonFiniteError: A model gives NaN or infinite outputs.
    """
    if not models or (reference is not None and reference not in models):
        raise ConfigurationError(
            f"The reference {reference!r} is not among the models ({', '.join(models) or 'none were given'}): name "
            f"one of them, or pass reference=None."
        )
    measures = measures or Measures()
    # The result of load_images holds the loader, whose data set has the number of images.
    loader = getattr(data, "loader", data)
    total = _total(loader)
    with ExitStack() as stack:
        stack.enter_context(own_precision(*models.values()))
        for model in models.values():
            stack.enter_context(_evaluating(model, device))
        comparison = _Comparison(models, reference, measures)
        if output_errors is not None:
            # Not before: the images of a bank do not count.
            stack.enter_context(output_errors)
        for batch in each_batch(loader):
            comparison.add(batch)
            if progress is not None:
                progress(comparison.images, total)
    if comparison.images == 0:
        raise DataError("There are no images to evaluate on: `data` gave none.")
    return comparison.result()


class _Comparison:
    """The figures of all models while batches are added."""

    def __init__(self, models: Mapping[str, nn.Module], reference: str | None, measures: Measures) -> None:
        self.models, self.reference, self.measures = models, reference, measures
        self.images = 0
        self._compared = reference is not None and len(models) > 1
        self._figures: dict[str, ModelFigures] = {}
        self._prompts = {
            name: None if measures.zero_shot is None else measures.zero_shot.class_embeddings(model)
            for name, model in models.items()
        }
        self._banks = self._read_banks()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Run every model on a batch, the reference first, and add its figures."""
        images = count_images(batch, next(iter(self.models.values())))
        expected: Any = None
        names = sorted(self.models, key=lambda name: name != self.reference)
        for name in names:
            output, inputs = output_of(self.models[name], batch)
            figures = self._figures_of(name, output)
            if name == self.reference:
                expected = output
            against = None if name == self.reference else expected
            figures.add(output, inputs, batch, against, images)
        self.images += images

    def result(self) -> dict[str, Evaluation]:
        """Return the figures of each model."""
        hits = {name: figures.accuracies() for name, figures in self._figures.items()}
        before = {} if self.reference is None else hits[self.reference]
        return {
            name: self._figures[name].result(self.images, hits[name], {} if name == self.reference else before)
            for name in self.models
        }

    def _figures_of(self, name: str, output: Any) -> ModelFigures:
        if name not in self._figures:
            model = self.models[name]
            task = task_of(model, output)
            self.measures.check_model(model, task, compared=self._compared)
            dense = None if self.reference is None else self._figures.get(self.reference)
            if dense is not None and _parts(task) != _parts(dense.task):
                raise ConfigurationError(
                    f"{name} gives {task.kinds} and {self.reference} {dense.task.kinds}: they cannot be compared."
                )
            self._figures[name] = ModelFigures(
                (name, self.reference or name), task, self.measures, self._banks.get(name), self._prompts[name]
            )
        return self._figures[name]

    def _read_banks(self) -> dict[str, Features]:
        bank = self.measures.bank
        if bank is None:
            return {}
        found = {name: Features() for name in self.models}
        for batch in each_batch(getattr(bank, "loader", bank)):
            labels = batch.get("labels")
            if labels is None:
                raise LabelError(
                    "The bank of neighbors has no labels: pass labelled images, as the evaluation images."
                )
            for name, model in self.models.items():
                output, inputs = output_of(model, batch)
                task = task_of(model, output)
                self.measures.check_model(model, task, compared=self._compared)
                task.check_labels(labels, count_images(batch, model))
                found[name].add(task.values(output, inputs), labels)
        for features in found.values():
            if not len(features):
                raise DataError("The bank of neighbors has no images: pass labelled images.")
            number_of_neighbors(self.measures.neighbors, len(features))
        return found


def check_classifier(model: nn.Module, name: str, advice: str) -> None:
    """Refuse a model that is no classifier with one label per image, before any work; runs it on one made image.

    Args:
        model: A vision model of transformers.
        name: The name of the model for the message.
        advice: The end of the message: the reason, and what to do.

    Raises:
        UnsupportedModelError: The model does not choose one of several classes for each image.
    """
    config = getattr(model, "config", None)
    problem, labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    if problem in ("regression", "multi_label_classification") or labels == 1:
        kind = "several labels per image" if problem == "multi_label_classification" else "a number per image"
        raise UnsupportedModelError(
            f"{name} has the class {type(model).__name__}, which predicts {kind} (problem_type {problem}, num_labels "
            f"{labels}): {advice}"
        )
    with own_precision(model), _evaluating(model, None), torch.no_grad():
        logits = getattr(model(**model_inputs(model, example_batch(model))), "logits", None)
    if not isinstance(logits, Tensor):
        raise UnsupportedModelError(f"{name} has the class {type(model).__name__}, which gives no logits: {advice}")
    if logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        raise UnsupportedModelError(
            f"{name} has the class {type(model).__name__}, whose logits have the shape {tuple(logits.shape)} for 1 "
            f"image; expected (images, classes): {advice}"
        )


def _parts(task: Task) -> list[tuple[str, str]]:
    return [] if task.distance is None else [(part.name, part.kind.value) for part in task.distance.parts]


@contextmanager
def _evaluating(model: nn.Module, device: str | torch.device | None) -> Any:
    """Put a model into eval mode and on the device, and restore both at the end."""
    home = next(model.parameters()).device
    with eval_mode(model):
        if device is not None:
            model.to(device)
        try:
            yield
        finally:
            if device is not None:
                model.to(home)


def _total(loader: Iterable[Any]) -> int | None:
    """Return the number of images of a loader, where its data set has a length."""
    try:
        return len(loader.dataset)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return None
