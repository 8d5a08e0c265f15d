"""Open an exported file in a fresh process by its runtime, compare it with PyTorch, and measure its latency."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_vbp._progress import one_line
from hf_vbp.checkpoint.isolation import offline_environment
from hf_vbp.errors import CheckpointError
from hf_vbp.evaluation.measures import wilson_interval
from hf_vbp.export.formats import FLOAT16, FLOAT32, INT8, ExportFormat
from hf_vbp.export.reference import Reference

_SCRIPT = Path(__file__).with_name("fresh_runtime.py")
_TIMEOUT_SECONDS = 1800
# Batches other than of one image are compared on the first images only.
BATCHES, _IMAGES_IN_BATCHES = (1, 3), 32
DEFAULT_AGREEMENT = 0.95
# Largest difference of an output, and least share of equal answers.
LIMITS: dict[str, tuple[float | None, float]] = {
    FLOAT32: (1e-3, 1.0),
    FLOAT16: (1e-2, 0.99),
    "bf16": (5e-2, 0.99),
    INT8: (None, DEFAULT_AGREEMENT),
}
# Of thousands of positions, some are ties.
_POSITIONS = 0.999
# Tokens are matched by their similarity: by a rounding error, another of two equally similar tokens is merged.
_MERGED = (5e-2, 0.99)


@dataclass(frozen=True)
class Timing:
    """When and how the latency is measured.

    Attributes:
        seconds: Seconds for each number of threads; 0 measures nothing.
        threads: Numbers of threads.
    """

    seconds: float = 2.0
    threads: tuple[int, ...] = field(default_factory=lambda: tuple(sorted({1, available_threads()})))


@dataclass(frozen=True)
class Opened:
    """What a fresh process found.

    Attributes:
        runtime: Name and version of the runtime.
        outputs: The outputs by batch size and name, float32.
        times: For each number of threads the seconds of each pass, of the other files and of this one.
    """

    runtime: str
    outputs: dict[int, dict[str, Tensor]]
    times: list[dict[str, Any]]


def available_threads() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_in_fresh_process(
    form: ExportFormat,
    path: Path,
    reference: Reference,
    folder: Path,
    *,
    others: Sequence[Path] = (),
    timing: Timing | None = None,
    batches: Sequence[int] = BATCHES,
) -> Opened:
    """Open a file by its runtime in a process without hf_vbp, and run it on the images of the reference.

    Args:
        form: The format.
        path: The file.
        reference: The images.
        folder: An empty folder for the job.
        others: Files that are timed in turns with it, such as that of the dense model.
        timing: How the latency is measured; by default it is not.
        batches: Batch sizes.

    Raises:
        CheckpointError: The file cannot be opened or run.
    """
    timing = timing or Timing(seconds=0)
    names = list(reference.outputs)
    for index, value in enumerate(reference.inputs.values()):
        # NumPy has no bfloat16.
        np.save(folder / f"input-{index}.npy", (value.float() if value.is_floating_point() else value).numpy())
    few = min(reference.images, _IMAGES_IN_BATCHES)
    sizes = [(batch, few if batch > 1 else reference.images) for batch in batches]
    job = {
        "runtime": form.name,
        "file": str(path),
        "others": [str(other) for other in others],
        "inputs": {name: f"input-{index}.npy" for index, name in enumerate(reference.inputs)},
        "outputs": names,
        "dtype": str(_dtype(reference)).removeprefix("torch."),
        "batches": sizes,
        "seconds": timing.seconds,
        "threads": timing.threads,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    shutil.copyfile(_SCRIPT, folder / "fresh_runtime.py")
    _run(folder, path)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    outputs = {batch: _read(folder, batch, names) for batch, _ in sizes}
    return Opened(result["version"], outputs, result["times"])


def _read(folder: Path, batch: int, names: Sequence[str]) -> dict[str, Tensor]:
    files = (folder / f"output-{batch}-{index}.npy" for index in range(len(names)))
    return {name: torch.from_numpy(np.load(file)).float() for name, file in zip(names, files, strict=True)}


def _dtype(reference: Reference) -> torch.dtype:
    return next(value.dtype for value in reference.inputs.values() if value.is_floating_point())


def _run(folder: Path, path: Path) -> None:
    command = [sys.executable, str(folder / "fresh_runtime.py"), str(folder / "job.json")]
    try:
        process = subprocess.run(
            command, cwd=folder, env=offline_environment(folder), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"{path.name} could not be opened in a fresh process: {one_line(error)}") from error
    if process.returncode or not (folder / "result.json").is_file():
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise CheckpointError(
            f"{path.name} cannot be opened or run by its runtime in a fresh process: "
            f"{one_line(ValueError(lines[-1]), 600)}. It was not written."
        )


@dataclass(frozen=True)
class Limits:
    """How far an exported file may differ.

    Attributes:
        difference: Largest difference of an output; None for any.
        agreement: Least share of images with the same answer.
        scaled: Whether the difference of an output is in units of its largest value where that exceeds 1, as for boxes
            in pixels; otherwise it is absolute.
    """

    difference: float | None
    agreement: float
    scaled: bool = False

    @classmethod
    def of(
        cls,
        precision: str,
        reference: Reference,
        minimum_agreement: float = DEFAULT_AGREEMENT,
        *,
        merges: bool = False,
    ) -> "Limits":
        """Return the limits of a precision.

        The difference is absolute for classifiers, and scaled for other tasks and models that merge tokens.

        Args:
            precision: The precision of the file.
            reference: The answers that it is compared with.
            minimum_agreement: Least agreement of int8 files.
            merges: Whether the model merges tokens.
        """
        difference, agreement = _MERGED if merges else LIMITS[precision]
        scaled = merges or not reference.classifies
        if precision == INT8:
            return cls(None, minimum_agreement, scaled)
        return cls(difference, agreement if reference.decides else min(agreement, _POSITIONS), scaled)


class DisagreementError(CheckpointError):
    """A file gives other outputs than the PyTorch model.

    Args:
        reason: What it gives, and what was expected.
        advice: What to do.

    Attributes:
        reason: As given.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}, so nothing was written. {advice}")
        self.reason = reason


def compared(opened: Opened, reference: Reference, name: str = "The exported file") -> dict[str, Any]:
    """Return the figures of the comparison: both differences, ``agreement``, and ``top1`` with labels.

    Args:
        opened: What the file gives.
        reference: What PyTorch gives.
        name: The name of the file, for the message.

    Raises:
        DisagreementError: An output is NaN or infinite, which no figure would show.
    """
    _check_finite(opened, name)
    one = opened.outputs[1]
    figures: dict[str, Any] = {
        "images": reference.images,
        "batches": list(opened.outputs),
        "max_abs_difference": max(reference.difference(outputs) for outputs in opened.outputs.values()),
        "max_scaled_difference": max(reference.scaled_difference(outputs) for outputs in opened.outputs.values()),
        "agreement": min(float(reference.agreement(outputs).mean()) for outputs in opened.outputs.values()),
    }
    hits = reference.hits(one)
    if hits is not None:
        expected = reference.hits(reference.outputs)
        figures["top1"] = float(hits.double().mean())
        figures["top1_interval"] = list(wilson_interval(int(hits.sum()), len(hits)))
        figures["pytorch_top1"] = float(expected.double().mean()) if expected is not None else None
    return figures


def _check_finite(opened: Opened, name: str) -> None:
    for batch, outputs in opened.outputs.items():
        for output, value in outputs.items():
            finite = torch.isfinite(value)
            if not bool(finite.all()):
                raise DisagreementError(
                    f"{name} gives NaN or infinity in {int((~finite).sum())} of {value.numel()} numbers of {output} "
                    f"(batches of {batch}), expected finite numbers, as PyTorch gives",
                    "Leave this precision out, or export float32.",
                )


def check_parity(name: str, figures: Mapping[str, Any], limits: Limits) -> None:
    """Refuse a file that does not agree with the PyTorch model.

    Args:
        name: The name of the file.
        figures: Result of :func:`compared`.
        limits: The limits.

    Raises:
        DisagreementError: It exceeds a limit; the message gives both figures.
    """
    difference = figures["max_scaled_difference" if limits.scaled else "max_abs_difference"]
    agreement = figures["agreement"]
    if limits.difference is not None and not difference <= limits.difference:
        unit = " times the largest value of an output" if limits.scaled else ""
        raise DisagreementError(
            f"{name} differs from the PyTorch model by {difference:.3g}{unit} on {figures['images']} images, expected "
            f"at most {limits.difference:g}",
            "Leave this precision out, or export float32.",
        )
    if not agreement >= limits.agreement:
        raise DisagreementError(
            f"{name} gives the answer of the PyTorch model on {100 * agreement:.1f} % of {figures['images']} images, "
            f"expected at least {100 * limits.agreement:g} %",
            "Leave this precision out, calibrate int8 on more images (--data), or lower the limit of int8 "
            "(--minimum-agreement).",
        )
