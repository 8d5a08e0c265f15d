"""Keep a trained model whose checks failed: a complete checkpoint whose name shows that it is not verified."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint.saving import Content, save_checkpoint
from hf_vbp.errors import CheckpointError, HfVbpError
from hf_vbp.files.layout import UNVERIFIED as MARKER
from hf_vbp.files.text import read_small_text

_VERSION = 1
# Errors of evaluating, saving and reopening a model; interrupts are not included.
FAILURES = (HfVbpError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def unverified_path(directory: str | os.PathLike[str]) -> Path:
    """Return the folder in which the trained model is kept until the checkpoint at ``directory`` is verified."""
    folder = Path(directory).absolute()
    return folder.with_name(f"{folder.name}.unverified")


def check_unverified(directory: str | os.PathLike[str]) -> None:
    """Refuse a folder that is in the way of :func:`keep_unverified`; call it before training.

    Raises:
        CheckpointError: There is something that :func:`keep_unverified` did not write.
    """
    path = unverified_path(directory)
    if path.exists() and not (path / MARKER).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(
            f"{path} exists and has no {MARKER}, so it was not written by this package. The trained model is kept "
            "there until it is verified: move it away, or choose another output."
        )


def keep_unverified(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    processor: Any = None,
    files: Mapping[str, Content] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model next to ``directory`` without verifying it; an earlier one there is replaced.

    Args:
        model: The model.
        directory: The output that the model is trained for.
        processor: As for :func:`~hf_vbp.checkpoint.save_checkpoint`.
        files: As for :func:`~hf_vbp.checkpoint.save_checkpoint`.
        state: The result of :func:`read_unverified`, as JSON.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder cannot be written, or holds something else.
    """
    path = unverified_path(directory)
    check_unverified(directory)
    discard_unverified(directory)
    save_checkpoint(model, path, processor=processor, files=files, verify=False)
    written = sorted(entry.name for entry in path.iterdir())
    marker = {"version": _VERSION, "files": written, "state": dict(state or {})}
    try:
        (path / MARKER).write_text(json.dumps(marker, indent=2), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{path / MARKER} cannot be written: {error}; the model in {path} is complete."
        ) from error
    return path


def read_unverified(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the state that was kept with an unverified model, None where there is no such model.

    Raises:
        CheckpointError: Its marker cannot be read.
    """
    marker = _read_marker(unverified_path(directory))
    return None if marker is None else marker["state"]


def discard_unverified(directory: str | os.PathLike[str]) -> None:
    """Remove an unverified model; files that were added to its folder are kept.

    Raises:
        CheckpointError: Its marker cannot be read.
    """
    path = unverified_path(directory)
    marker = _read_marker(path)
    if marker is None:
        return
    for name in (*marker["files"], MARKER):
        (path / Path(name).name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


def _read_marker(path: Path) -> dict[str, Any] | None:
    file = path / MARKER
    if not file.is_file():
        return None
    try:
        marker = json.loads(read_small_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); move {path} away.") from error
    shape = marker if isinstance(marker, dict) else {}
    names, state = shape.get("files"), shape.get("state")
    if shape.get("version") != _VERSION or not isinstance(names, list) or not isinstance(state, dict):
        raise CheckpointError(f"{file} is not a marker of version {_VERSION}; move {path} away.")
    if not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{file} lists files that have no name; move {path} away.")
    return shape


@contextmanager
def named_on_failure(path: Path, advice: str) -> Iterator[None]:
    """Name the folder of the trained model in the error of a check that failed.

    Args:
        path: The result of :func:`keep_unverified`.
        advice: The next step, in one sentence.

    Raises:
        CheckpointError: A check failed.
    """
    try:
        yield
    except FAILURES as error:
        text = str(error) if isinstance(error, HfVbpError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{text} Training had finished: the trained model is kept, unverified, in {path}. {advice}"
        ) from error
