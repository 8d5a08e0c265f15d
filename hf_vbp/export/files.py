"""Write the exported files of a model, each after its comparison with PyTorch, and describe them for the results."""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hf_vbp._progress import Progress
from hf_vbp.export.conversion import Program, convert, save
from hf_vbp.export.formats import FLOAT16, FLOAT32, INT8, ExportFormat
from hf_vbp.export.inputs import ImageTower, described_shapes
from hf_vbp.export.latency import latency_rows
from hf_vbp.export.parity import (
    DEFAULT_AGREEMENT,
    DisagreementError,
    Limits,
    Timing,
    check_parity,
    compared,
    open_in_fresh_process,
)
from hf_vbp.export.quantization import Quantized, best_int8, to_float16
from hf_vbp.export.reference import Reference
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens

_PRECISIONS = {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: "bf16"}


class Stages(Protocol):
    """Shows the stages of the work, and what is left out."""

    def warn(self, text: str) -> None:
        """Show what is left out."""
        ...

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Open a stage."""
        ...


@dataclass(frozen=True)
class ExportOptions:
    """How files are made and compared.

    Attributes:
        quantize: Precisions in addition to that of the model.
        minimum_agreement: Least share of images for which an int8 file gives the answer of PyTorch.
        timing: How the latency is measured.
    """

    quantize: tuple[str, ...] = ()
    minimum_agreement: float = DEFAULT_AGREEMENT
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True)
class ExportedModel:
    """A model as it is exported.

    Attributes:
        module: The module, in eval mode on the CPU.
        inputs: The inputs that it is traced with.
        reference: Its answers.
        calibration: Its answers for the images by which int8 is chosen.
    """

    module: Any
    inputs: Mapping[str, Tensor]
    reference: Reference
    calibration: Reference | None = None

    def limits(self, precision: str, options: ExportOptions) -> Limits:
        """Return how far a file of a precision may differ."""
        inner = self.module.model if isinstance(self.module, ImageTower) else self.module
        return Limits.of(precision, self.reference, options.minimum_agreement, merges=any(merged_tokens(inner)))


@dataclass(frozen=True)
class DenseFile:
    """The exported dense model in one precision, with which the files are timed in turns.

    Attributes:
        path: Its file.
        figures: The ``dense`` part of the row in this precision.
    """

    path: Path
    figures: dict[str, Any]


_COMPARED = ("bytes", "max_abs_difference", "max_scaled_difference", "agreement", "top1", "top1_interval")


def write_files(
    model: ExportedModel,
    folder: Path,
    form: ExportFormat,
    options: ExportOptions,
    stages: Stages,
    dense: Mapping[str, DenseFile] | None = None,
) -> list[dict[str, Any]]:
    """Write the files of a format to the folder of a checkpoint.

    Args:
        model: The model.
        folder: The folder, which is removed by the caller if this fails.
        form: The format.
        options: The precisions, and how they are compared.
        stages: Shows the stages of the work.
        dense: The files of the exported dense model by precision, as of :func:`write_dense`.

    Returns:
        A row of the ``exports`` part of the results for each main file.

    Raises:
        UnsupportedModelError: The exporter does not take the model.
        CheckpointError: A file cannot be opened by its runtime, or gives other answers than the PyTorch model.
        DataError: There are too few images for int8.
        OSError: A file cannot be written.
    """
    with stages.stage(f"Conversion to {form.title}"):
        program = convert(model.module, model.inputs, form)
    return [
        _write_file(program, precision, model, folder, form, options, stages, dense or {})
        for precision in (FLOAT32, *options.quantize)
    ]


def write_dense(
    model: ExportedModel, folder: Path, form: ExportFormat, options: ExportOptions, stages: Stages
) -> dict[str, DenseFile]:
    """Write the dense model, and return what the files of the pruned one are compared with, by precision.

    A file that does not agree with the dense model in PyTorch is left out with a warning; nothing is compared without
    the one in float32.

    Args:
        model: The dense model.
        folder: The folder of its file in float32. Those in other precisions are written to ``quantized/`` in it.
        form: The format.
        options: As for :func:`write_files`; nothing is timed.
        stages: Shows the stages of the work.
    """
    titled = _Titled(stages, "dense model: ")
    untimed = replace(options, timing=Timing(seconds=0))
    with titled.stage(f"Conversion to {form.title}"):
        program = convert(model.module, model.inputs, form)
    found: dict[str, DenseFile] = {}
    for precision in (FLOAT32, *options.quantize):
        place = folder if precision == FLOAT32 else folder / "quantized"
        try:
            row = _write_file(program, precision, model, place, form, untimed, titled, {})
        except DisagreementError as error:
            titled.warn(f"{error.reason}. The dense model is left out of the comparison in {precision}.")
            if precision == FLOAT32:
                return {}
            continue
        figures = {key: row[key] for key in _COMPARED if key in row}
        found[precision] = DenseFile(place / row["file"], figures)
    return found


def _write_file(
    program: Program,
    precision: str,
    model: ExportedModel,
    folder: Path,
    form: ExportFormat,
    options: ExportOptions,
    stages: Stages,
    dense: Mapping[str, DenseFile],
) -> dict[str, Any]:
    """Write the file of one precision, compare it, and return its row."""
    name = form.path(precision, tower=isinstance(model.module, ImageTower))
    with stages.stage(f"{name}, reopened in a fresh process"):
        made, quantized = _with_precision(program, precision, form, model)
        path = folder / name
        save(made, form, path, precision)
        own = _PRECISIONS[next(model.module.parameters()).dtype]
        stored = own if precision == FLOAT32 else precision
        row = _described(path, folder, form, stored, model)
        limits = model.limits(stored, options)
        others = [dense[one] for one in dict.fromkeys((FLOAT32, precision)) if one in dense]
        checked = _checked(path, form, model.reference.named(made.outputs), limits, options, others, stages)
        if precision in dense:
            checked["dense"] = {**dense[precision].figures, **checked.get("dense", {})}
        else:
            checked.pop("dense", None)
        return row | checked | ({} if quantized is None else {"quantization": quantized.to_dict()})


@dataclass(frozen=True)
class _Titled:
    """Stages whose titles begin with the name of a model."""

    stages: Stages
    prefix: str

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        return self.stages.stage(self.prefix + title, total)

    def warn(self, text: str) -> None:
        self.stages.warn(self.prefix + text)


def _with_precision(
    program: Program, precision: str, form: ExportFormat, model: ExportedModel
) -> tuple[Program, Quantized | None]:
    if form.name == "onnx" and precision == FLOAT16:
        return to_float16(program), None
    if precision == INT8 and model.calibration is not None:
        quantized = best_int8(program, model.calibration, lambda made, images: _outputs(made, images, form))
        return quantized.program, quantized
    return program, None


def _outputs(program: Program, reference: Reference, form: ExportFormat) -> dict[str, Tensor]:
    """Return the outputs of a program that is not written yet."""
    with _job_folder() as folder:
        path = folder / "program" / form.files[FLOAT32]
        save(program, form, path, FLOAT32)
        named = reference.named(program.outputs)
        return open_in_fresh_process(form, path, named, folder, batches=(1,)).outputs[1]


def _described(path: Path, folder: Path, form: ExportFormat, precision: str, model: ExportedModel) -> dict[str, Any]:
    files = companions(path)
    return {
        "file": path.relative_to(folder).as_posix(),
        "format": form.name,
        "precision": precision,
        "files": {one.relative_to(folder).as_posix(): _sha256(one) for one in files},
        "bytes": sum(one.stat().st_size for one in files),
        "inputs": described_shapes(model.inputs),
    }


def _checked(
    path: Path,
    form: ExportFormat,
    reference: Reference,
    limits: Limits,
    options: ExportOptions,
    others: Sequence[DenseFile],
    stages: Stages,
) -> dict[str, Any]:
    with _job_folder() as folder:
        opened = open_in_fresh_process(
            form, path, reference, folder, others=[other.path for other in others], timing=options.timing
        )
    name = f"{path.parent.name}/{path.name}"
    figures = compared(opened, reference, name)
    check_parity(name, figures, limits)
    if not limits.scaled:
        del figures["max_scaled_difference"]
    latency, dense_latency = latency_rows(opened, name, stages.warn)
    return {
        "runtime": opened.runtime,
        "outputs": list(reference.outputs),
        "data": reference.source,
        **{key: value for key, value in figures.items() if value is not None},
        **({"dense": {"latency": dense_latency}} if dense_latency else {}),
        **({"latency": latency} if latency else {}),
    }


def companions(path: Path) -> Sequence[Path]:
    """Return a main file and those that belong to it: external data of ONNX, weights of OpenVINO."""
    others = (path.with_name(f"{path.name}_data"), path.with_suffix(".bin"))
    return [path, *(other for other in others if other.is_file())]


@contextmanager
def _job_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hf-vbp-export-") as folder:
        yield Path(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
