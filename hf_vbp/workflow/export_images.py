"""The images on which exported files are compared with PyTorch, and by which int8 is chosen."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hf_vbp.errors import DataError
from hf_vbp.evaluation.task import example_task
from hf_vbp.export.files import ExportedModel
from hf_vbp.export.formats import INT8
from hf_vbp.export.inputs import exported_module, traced_inputs
from hf_vbp.export.reference import Reference, reference_of
from hf_vbp.inputs.example import example_batch
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.loading import LoadedModel
from hf_vbp.workflow.requests import DataRequest, Reporter

COMPARED = 32
CALIBRATED = 128
GENERATED = "generated"
_GENERATED_IMAGES = 4

Images = DataRequest | str | Iterable[Mapping[str, Any]]


def check_images(quantize: Iterable[str], data: Images | None, eval_data: Images | None) -> None:
    """Refuse an export to int8 without images.

    Raises:
        DataError: There is no data.
    """
    if INT8 in quantize and data is None:
        raise DataError(
            "int8 is chosen and compared on images: give calibration images with --data (data= from Python), some "
            "hundreds are usual."
        )


def export_images(
    loaded: LoadedModel, quantize: Iterable[str], data: Images | None, eval_data: Images | None, reporter: Reporter
) -> ExportedModel:
    """Open the images, and run the PyTorch model on them.

    Args:
        loaded: The model.
        quantize: The precisions in addition to that of the model.
        data: Calibration images; at most 128 of a source without a limit. Without ``eval_data`` files are compared on
            the last 32 of them.
        eval_data: Images on which files are compared; 32 of a source without a limit.
        reporter: Receives progress updates.

    Raises:
        DataError: There are no images, or they do not fit the model.
    """
    module = exported_module(loaded.model)
    calibration = compared = None
    if data is not None and (INT8 in set(quantize) or eval_data is None):
        opened = _opened(data, loaded, CALIBRATED, labelled=False)
        calibration = _answers(module, opened, _source(opened), CALIBRATED, reporter, "calibration images")
    if eval_data is not None:
        task = example_task(loaded.model)
        opened = _opened(eval_data, loaded, COMPARED, labelled=task is not None and task.labels == "class")
        limit = _limit(eval_data, COMPARED)
        compared = _answers(module, opened, _source(opened), limit, reporter, "images to compare")
    elif calibration is not None:
        images = calibration.images
        compared = calibration.part(max(images - COMPARED, images // 2 if INT8 in set(quantize) else 0), images)
    else:
        made = example_batch(module, _GENERATED_IMAGES)
        compared = reference_of(module, [made], GENERATED, limit=_GENERATED_IMAGES)
    inputs = traced_inputs(module, {name: value[:2] for name, value in compared.inputs.items()})
    return ExportedModel(module, inputs, compared, calibration)


def answers_of(loaded: LoadedModel, images: Reference, calibration: Reference | None) -> ExportedModel:
    """Return another model with its answers for the same images.

    Args:
        loaded: The model, such as the dense one.
        images: The images on which its files are compared.
        calibration: The images by which int8 is chosen.
    """
    module = exported_module(loaded.model)
    inputs = traced_inputs(module, images.part(0, 2).inputs)
    of_calibration = None if calibration is None else _same_images(module, calibration)
    return ExportedModel(module, inputs, _same_images(module, images), of_calibration)


def _same_images(module: Any, images: Reference) -> Reference:
    batches = ({name: value[i : i + 8] for name, value in images.inputs.items()} for i in range(0, images.images, 8))
    return replace(reference_of(module, batches, images.source, limit=images.images), labels=images.labels)


def _answers(module: Any, images: Any, source: str, limit: int | None, reporter: Reporter, title: str) -> Reference:
    most = limit or int(1e9)
    known = getattr(images, "images", None)
    with reporter.stage(f"PyTorch, {title}", None if known is None else min(known, most)) as progress:
        return reference_of(module, images, source, limit=most, progress=progress)


def _limit(images: Images, usual: int) -> int | None:
    return images.limit or usual if isinstance(images, DataRequest) else usual if isinstance(images, str) else None


def _opened(images: Images, loaded: LoadedModel, usual: int, *, labelled: bool) -> Any:
    if isinstance(images, str):
        images = DataRequest(images)
    if not isinstance(images, DataRequest):
        return images
    request = replace(images, limit=images.limit or usual)
    if labelled:
        return request.open(loaded, "evaluation")
    return request.open(loaded, "calibration", labels="none")


def _source(images: Any) -> str:
    return str(describe_images(images).get("source", "unnamed batches"))
