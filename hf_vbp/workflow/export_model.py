"""Export from Python."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from hf_vbp._progress import Progress
from hf_vbp.export.files import ExportOptions
from hf_vbp.export.parity import DEFAULT_AGREEMENT, Timing
from hf_vbp.results.exports import ExportRow
from hf_vbp.workflow.export_command import ExportRequest, run_export
from hf_vbp.workflow.export_images import Images
from hf_vbp.workflow.loading import Loading


def export_model(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    format: Literal["onnx", "openvino", "torch-export", "executorch"] = "onnx",
    quantize: Sequence[str] = (),
    data: Images | None = None,
    eval_data: Images | None = None,
    base: str | os.PathLike[str] | None = None,
    minimum_agreement: float = DEFAULT_AGREEMENT,
    web: bool = False,
    overwrite: bool = False,
    latency_seconds: float = 2.0,
    revision: str | None = None,
    base_revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[ExportRow]:
    """Write a saved checkpoint as files for other runtimes, and compare each with the PyTorch model.

    Each file is opened in a fresh process by its runtime and run on images of yours, in batches of 1 and 3. Float32
    must be within 1e-3 of PyTorch and give the same answer on every image, float16 within 1e-2 and 99 %, int8 the same
    answer on 95 %; otherwise nothing is written. The difference is absolute for classifiers; for other tasks, and for
    models that merge tokens, it is in units of the largest value of the output where that exceeds 1. docs/deploy.md
    describes the files.

    Args:
        model: The folder of a checkpoint, a Hub id, or ``"sample"``.
        output: A new folder for the files, with config and image processor. By default they are written next to the
            weights of a checkpoint that hf_vbp wrote, and to the section ``exports`` of its ``vbp_results.json``.
        format: The format.
        quantize: Further files of smaller precision: ``"int8"`` and ``"fp16"`` for onnx, ``"fp16"`` for openvino.
        data: Calibration images, needed for int8: the name of a source, or batches. Without ``eval_data`` the files
            are compared on some of them, and without both on random values.
        eval_data: Images on which the files are compared, with labels for their top-1; 32 of a named source.
        base: The dense model. It is exported too, in the same precisions, and the latency of both is measured in
            turns. A file of it that does not agree with PyTorch is left out with a warning.
        minimum_agreement: Least share of images for which int8 gives the answer of PyTorch.
        web: Also write a page that runs the model in the browser.
        overwrite: Replace files of the same format, or an output that hf_vbp wrote.
        latency_seconds: Seconds in which the latency is measured, for each number of threads; 0 measures none. A
            latency whose 95 % interval extends by more than 25 % is left out with a warning.
        revision: Branch, tag or commit of the model on the Hub.
        base_revision: Branch, tag or commit of the dense model.
        token: Access token for the Hub; by default the one that huggingface_hub finds.
        cache_dir: Cache of the files from the Hub; by default that of huggingface_hub.

    Returns:
        A row for each file with its figures; next to weights, also those of other formats.

    Raises:
        CheckpointError: The output is taken or cannot be written, or a file does not agree with the PyTorch model.
        UnsupportedModelError: The exporter does not take the model.
        MissingPackageError: A package that the format needs is not installed.
        ConfigurationError: There is no such format or precision, or options contradict each other.
        DataError: int8 has no images, or too few.

    Example:
        >>> import hf_vbp
        >>> rows = hf_vbp.export_model("pruned-vit", quantize=["int8"], data="photos")  # doctest: +SKIP
        >>> [row["file"] for row in rows]  # doctest: +SKIP
        ['onnx/model.onnx', 'onnx/model_quantized.onnx']
    """
    hub: dict[str, Any] = {"token": token, "cache_dir": None if cache_dir is None else Path(cache_dir)}
    request = ExportRequest(
        os.fspath(model),
        None if output is None else Path(output),
        format,
        ExportOptions(tuple(dict.fromkeys(quantize)), minimum_agreement, Timing(latency_seconds)),
        data=data,
        eval_data=eval_data,
        base=None if base is None else os.fspath(base),
        web=web,
        overwrite=overwrite,
        base_revision=base_revision,
        loading=Loading(revision=revision, **hub),
    )
    return cast("list[ExportRow]", run_export(request, _Silent())["exports"])


class _Silent:
    """A reporter that shows no progress."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Progress]:
        def ignore(done: int, known_total: int | None = None) -> Any:
            return None

        yield ignore
