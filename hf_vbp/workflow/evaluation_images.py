"""Open the images of an evaluation for the commands, as the output of the model needs them."""

from dataclasses import dataclass
from typing import Any

from hf_vbp.errors import ConfigurationError, DataError, LabelError
from hf_vbp.evaluation.neighbors import number_of_neighbors
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import Task, example_task
from hf_vbp.workflow.loading import LoadedModel
from hf_vbp.workflow.requests import DataRequest, Reporter, with_note


@dataclass(frozen=True)
class EvaluationRequest:
    """The images of an evaluation as a user names them.

    Attributes:
        images: The evaluation images.
        bank: For backbones: labelled images among which neighbors are sought.
        calibration: The calibration images, which are the bank where none is named and they have labels.
        neighbors: Number of neighbors that vote; None for the default.
    """

    images: DataRequest
    bank: DataRequest | None = None
    calibration: DataRequest | None = None
    neighbors: int | None = None


def check_evaluation_request(request: EvaluationRequest, loaded: LoadedModel, *, compared: bool) -> Task:
    """Refuse options that do not fit the model, before any image is read, and return what its output is.

    Args:
        request: The images.
        loaded: The model.
        compared: Whether it is compared with another model.

    Raises:
        UnsupportedModelError: The kind of output is not known, or nothing could be measured.
        ConfigurationError: A bank, neighbors or names of classes are given for a model that has no use for them.
    """
    task = example_task(loaded.model)
    if task is None:
        raise ConfigurationError(
            f"No image can be made for {loaded.source} from its config, so that its output is not known beforehand: "
            "evaluate it from Python with hf_vbp.evaluate."
        )
    source = _described(loaded.source, task)
    if task.labels != "features" and (request.bank is not None or request.neighbors is not None):
        raise ConfigurationError(
            f"{source}: --bank and --neighbors are for backbones that give one feature for each image. Leave them out."
        )
    if request.images.model_labels or request.images.label_map:
        check_has_classes(loaded.source, task)
    if task.labels in ("several", "numbers") and not compared:
        raise ConfigurationError(
            f"{source}, and images on the command line have one class each: name the dense model with --base, or "
            "evaluate it from Python with the labels of your task (hf_vbp.evaluate_models)."
        )
    # A bank that is still to be opened counts.
    opened_later = task.labels == "features" and request.bank is not None
    Measures().check_model(loaded.model, task, compared=compared or opened_later)
    return task


def check_has_classes(source: str, task: Task) -> None:
    """Refuse names of classes for a model that is no classifier.

    Args:
        source: The name of the model.
        task: What its output is.

    Raises:
        ConfigurationError: The model has no classes.
    """
    if task.labels != "class":
        raise ConfigurationError(
            f"{_described(source, task)}, so it has no classes of its own: leave out --model-labels and --label-map."
        )


def _described(source: str, task: Task) -> str:
    return f"{source} has the class {task.name}, which gives {task.kinds}"


def open_evaluation(
    request: EvaluationRequest, loaded: LoadedModel, task: Task, reporter: Reporter
) -> tuple[Any, Measures]:
    """Open the evaluation images, and the bank of neighbors where there is one.

    Args:
        request: The images.
        loaded: The model.
        task: Result of :func:`check_evaluation_request`.
        reporter: Receives a remark where neighbors are left out.

    Raises:
        DataError: The images cannot be opened, or have no labels where labels are needed.
        LabelError: The classes of the evaluation images are not those of the model, or of the bank.
    """
    if task.labels == "class":
        return with_note(request.images.open(loaded, "evaluation"), reporter), Measures()
    if task.labels != "features":
        return request.images.open(loaded, "evaluation", labels="none"), Measures()
    bank = _bank(request, loaded, reporter)
    if bank is None:
        return request.images.open(loaded, "evaluation", labels="none"), Measures()
    if bank.images is not None:
        number_of_neighbors(request.neighbors, bank.images)
    try:
        images = request.images.open(loaded, "evaluation", id2label=dict(enumerate(bank.class_names or ())))
    except LabelError as error:
        if request.bank is not None:
            raise LabelError(
                f"The classes of {request.images.source} are not those of the bank, {request.bank.source}: {error}"
            ) from error
        reporter.say(
            f"No k-nearest neighbors: the classes of {request.images.source} are not those of the calibration images. "
            "Name labelled images of the same classes with --bank"
        )
        return request.images.open(loaded, "evaluation", labels="none"), Measures()
    if images.labelled:
        return images, Measures(bank=bank, neighbors=request.neighbors)
    if request.bank is not None or request.neighbors is not None:
        raise DataError(
            f"{request.images.source} has no labels, which k-nearest neighbors need: name labelled images, or leave "
            "out --bank and --neighbors."
        )
    reporter.say("No k-nearest neighbors: the evaluation images have no labels")
    return images, Measures()


def _bank(request: EvaluationRequest, loaded: LoadedModel, reporter: Reporter) -> Any:
    """Return the labelled images of the bank; None where none is named and the calibration images cannot be it."""
    if request.bank is not None:
        bank = request.bank.open(loaded, "calibration", labels="data")
        if not bank.labelled:
            raise DataError(f"{request.bank.source} has no labels, which a bank needs: name labelled images.")
        return bank
    if request.calibration is not None:
        try:
            bank = request.calibration.open(loaded, "calibration", labels="data")
        except LabelError as error:
            reporter.say(f"No k-nearest neighbors: {error} Or name other images with --bank.")
            return None
        if bank.labelled:
            return bank
    if request.neighbors is not None:
        raise DataError("--neighbors needs labelled images: name them with --bank.")
    reporter.say("No k-nearest neighbors: name labelled images with --bank")
    return None
