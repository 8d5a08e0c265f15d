"""Export a checkpoint by name: next to its weights, or to a folder of its own."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint.atomic_folder import reserved, staged
from hf_vbp.checkpoint.inputs import Source
from hf_vbp.checkpoint.manifest import replaceable_contents
from hf_vbp.checkpoint.transformers_patch import patched
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.export.files import DenseFile, ExportedModel, ExportOptions, write_dense, write_files
from hf_vbp.export.formats import ExportFormat, find_format
from hf_vbp.export.web import check_classifier, fetch_packages, recorded_page_files, write_page
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import CONFIG, MANIFEST, MODELING_FILE, RESULTS
from hf_vbp.results.record import load_results, to_json
from hf_vbp.workflow.export_images import Images, answers_of, check_images, export_images
from hf_vbp.workflow.loading import LoadedModel, Loading, without_progress_bars
from hf_vbp.workflow.outputs import input_sources
from hf_vbp.workflow.requests import DataRequest, Reporter

EXPORTS = "vbp_export.json"
"""The rows of the exported files, in a folder that has no ``vbp_results.json``."""
EXPORTS_VERSION = 1


@dataclass(frozen=True)
class ExportRequest:
    """Arguments of ``hf-vbp export``.

    Attributes:
        model: Hub id, folder or ``sample``.
        output: A new folder; None writes next to the weights of a checkpoint that hf_vbp wrote.
        format: Name of the format.
        options: Precisions, limits and timing.
        data: Calibration images.
        eval_data: Images on which the files are compared.
        base: The dense model, which is exported and timed too.
        base_revision: Revision of the dense model.
        web: Whether to write a page that runs the model in the browser.
        overwrite: Whether to replace files of the same format.
        loading: How the model is loaded.
    """

    model: str
    output: Path | None = None
    format: str = "onnx"
    options: ExportOptions = field(default_factory=ExportOptions)
    data: Images | None = None
    eval_data: Images | None = None
    base: str | None = None
    base_revision: str | None = None
    web: bool = False
    overwrite: bool = False
    loading: Loading = field(default_factory=Loading)


def run_export(request: ExportRequest, reporter: Reporter) -> dict[str, Any]:
    """Export a checkpoint; the files appear together at the end, or nothing is written.

    Args:
        request: The request.
        reporter: Receives progress updates.

    Returns:
        ``{"folder": ..., "exports": [...]}``, the rows as in ``vbp_results.json``.

    Raises:
        HfVbpError: Any failure, raised before expensive work where that is possible.
    """
    form = _check(request)
    inside = request.output is None
    folder = Path(request.model).expanduser() if request.output is None else request.output
    data, evaluation = ((one if isinstance(one, DataRequest) else None) for one in (request.data, request.eval_data))
    sources = input_sources(model=None if inside else request.model, data=data, evaluation=evaluation)
    with _reserved(folder, request, sources) as target:
        if inside:
            _check_inside(target, form, request)
        loaded = _load(request, request.loading, request.model, form, reporter)
        if request.web:
            check_classifier(type(loaded.model).__name__, request.model)
            fetch_packages()
        dense = _load_dense(request, form, reporter)
        model = export_images(loaded, request.options.quantize, request.data, request.eval_data, reporter)
        with staged(target, overwrite=request.overwrite or inside) as staging, tempfile.TemporaryDirectory() as other:
            if inside:
                _link_checkpoint(target, staging, form, request, reporter)
            else:
                _write_configs(loaded, staging)
            rows, has_dense = _write(model, dense, request, form, staging, Path(other), reporter)
            all_rows = _record(rows, staging, target if inside else None, form)
            if request.web:
                write_page(staging, Path(other) if has_dense else None)
    return {"folder": str(folder), "exports": all_rows}


def _check(request: ExportRequest) -> ExportFormat:
    """Refuse what needs no model to be refused."""
    form = find_format(request.format, request.options.quantize)
    check_images(request.options.quantize, request.data, request.eval_data)
    minimum = request.options.minimum_agreement
    if not 0 <= minimum <= 1:
        raise ConfigurationError(f"The minimum agreement is a share between 0 and 1, got {minimum!r}.")
    if request.web and form.name != "onnx":
        raise ConfigurationError(f"The page of --web runs ONNX files, got --format {form.name}. Give --format onnx.")
    if request.output is None:
        if not Path(request.model).expanduser().is_dir():
            raise ConfigurationError(
                f"{request.model} is not a folder, so no file can be written next to its weights: give --output, a "
                "new folder."
            )
        if request.loading.interpolate_pos_encoding:
            raise ConfigurationError(
                "--interpolate-pos-encoding changes the model, so its files do not belong next to these weights: "
                "give --output, a new folder."
            )
    return form


@contextmanager
def _reserved(folder: Path, request: ExportRequest, sources: Mapping[str, Source]) -> Iterator[Path]:
    """Check and hold the output; a checkpoint that no file can be added to is refused with the other way."""
    inside = request.output is None
    with ExitStack() as stack:
        try:
            target = stack.enter_context(reserved(folder, request.overwrite or inside, inputs=sources))
        except CheckpointError as error:
            if not inside:
                raise
            raise CheckpointError(
                f"{error} To write the exported files to a folder of their own, give --output DIR (output=)."
            ) from error
        yield target


def _check_inside(folder: Path, form: ExportFormat, request: ExportRequest) -> None:
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{request.model} has no {CONFIG}. Expected the folder of a checkpoint.")
    if (folder / form.folder).exists() and not request.overwrite:
        raise CheckpointError(
            f"{folder / form.folder} exists already; nothing was changed. Remove it, or pass overwrite=True "
            "(--overwrite)."
        )


def _load(
    request: ExportRequest, loading: Loading, source: str, form: ExportFormat, reporter: Reporter
) -> LoadedModel:
    reporter.say(f"Loading {source}")
    loaded = replace(loading, device="cpu").load(source)
    # torch.export keeps the dtype of the weights; all others compute in float32.
    return loaded if form.name == "torch-export" else replace(loaded, model=loaded.model.float())


def _load_dense(request: ExportRequest, form: ExportFormat, reporter: Reporter) -> LoadedModel | None:
    if request.base is None:
        return None
    return _load(request, replace(request.loading, revision=request.base_revision), request.base, form, reporter)


def _write(
    model: ExportedModel,
    dense: LoadedModel | None,
    request: ExportRequest,
    form: ExportFormat,
    staging: Path,
    other: Path,
    reporter: Reporter,
) -> tuple[list[dict[str, Any]], bool]:
    """Write the files; return their rows, and whether the dense model could be exported too."""
    files: dict[str, DenseFile] = {}
    if dense is not None:
        _write_configs(dense, other)
        answers = answers_of(dense, model.reference, model.calibration)
        files = write_dense(answers, other, form, request.options, reporter)
    return write_files(model, staging, form, request.options, reporter, files), bool(files)


def _link_checkpoint(
    folder: Path, staging: Path, form: ExportFormat, request: ExportRequest, reporter: Reporter
) -> None:
    """Link the files of a checkpoint into the folder that replaces it, without those that are made again.

    These are the files of the format, and for ONNX the page that runs them.
    """
    page = recorded_page_files(folder) if form.name == "onnx" else frozenset()
    if page and not request.web:
        reporter.warn(f"The page in {folder} shows the replaced ONNX files, so it is removed; --web writes it again.")
    written_again = {MANIFEST, RESULTS, EXPORTS, *page}
    for name in replaceable_contents(folder).replaceable:
        if name.startswith(f"{form.folder}/") or name in written_again or not (folder / name).is_file():
            continue
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, staging / name)
        except OSError:
            # A file system without links.
            shutil.copy2(folder / name, staging / name)


def _write_configs(loaded: LoadedModel, folder: Path) -> None:
    """Write the config and the image processor of a model, without the code that belongs to its weights."""
    with patched(), without_progress_bars():
        loaded.model.config.save_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.pop("auto_map", None) is not None:
        (folder / MODELING_FILE).unlink(missing_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if loaded.processor is not None:
        loaded.processor.save_pretrained(folder)


def _record(rows: list[dict[str, Any]], staging: Path, checkpoint: Path | None, form: ExportFormat) -> Any:
    """Add the rows to the results of the checkpoint, or write them to a file of their own."""
    if checkpoint is not None and (checkpoint / RESULTS).is_file():
        results: dict[str, Any] = dict(load_results(checkpoint))
        results["exports"] = [*_of_other_formats(results, form), *rows]
        (staging / RESULTS).write_text(to_json(results), encoding="utf-8")
        return results["exports"]
    if checkpoint is not None and (checkpoint / EXPORTS).is_file():
        rows = [*_of_other_formats(read_json_object(checkpoint / EXPORTS, "Remove it."), form), *rows]
    (staging / EXPORTS).write_text(to_json({"schema_version": EXPORTS_VERSION, "exports": rows}), encoding="utf-8")
    return rows


def _of_other_formats(results: Mapping[str, Any], form: ExportFormat) -> list[dict[str, Any]]:
    return [row for row in results.get("exports", []) if row["format"] != form.name]
