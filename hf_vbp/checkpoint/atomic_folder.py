"""Writing a folder so that it is there whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from hf_vbp.checkpoint.layout import CONFIG
from hf_vbp.errors import CheckpointError


def check_output_directory(
    directory: str | os.PathLike[str], overwrite: bool = False, *, required_bytes: int = 0
) -> Path:
    """Refuse a folder that a checkpoint cannot or must not be written to; call it before any long work.

    An empty folder is fine. With ``overwrite``, so is one that holds a checkpoint (a ``config.json``), which is
    then replaced as a whole; a folder with anything else in it, or under version control, never is.

    Args:
        directory: Where the checkpoint shall lie.
        overwrite: Whether a checkpoint that lies there may be replaced.
        required_bytes: What will be written, as far as it is known.

    Returns:
        The folder as an absolute path.

    Raises:
        CheckpointError: The folder is taken, its place cannot be written to, or the disk is too full.
    """
    folder = Path(directory).absolute()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{directory} is a file, expected a folder or a new name; choose another output.")
    if folder.is_dir() and any(folder.iterdir()):
        _check_replaceable(folder, overwrite)
    place = next(parent for parent in folder.parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise CheckpointError(f"{directory} cannot be made: {place} is not a folder that can be written to.")
    free = shutil.disk_usage(place).free
    if free < required_bytes:
        raise CheckpointError(
            f"{directory} needs {required_bytes / 1e6:.0f} MB, but {free / 1e6:.0f} MB are free on that disk. "
            "Make room, or choose another output."
        )
    return folder


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not overwrite:
        raise CheckpointError(
            f"{folder} exists and is not empty; nothing was changed. Choose another output, remove the folder, or "
            "pass overwrite=True (--overwrite)."
        )
    if not (folder / CONFIG).is_file() or (folder / ".git").exists():
        raise CheckpointError(
            f"{folder} holds something else than a checkpoint (no config.json, or a git repository), so it is not "
            "overwritten. Choose another output, or remove the folder yourself."
        )


@contextmanager
def staged(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a new folder beside ``folder`` that takes its place when the block ends, and vanishes if it fails.

    Args:
        folder: Where the files shall lie, as returned by :func:`check_output_directory`.
        overwrite: Whether a checkpoint that lies there is replaced.

    Raises:
        CheckpointError: A file could not be written, for instance because the disk is full. What was there before
            is there still.
    """
    staging = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}.partial"
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        try:
            staging.mkdir(parents=True)
            yield staging
            _flush(staging)
            check_output_directory(folder, overwrite)
            _put_in_place(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            # Of the parents that were made for it, those that hold nothing go as well.
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
    except CheckpointError:
        raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} could not be written: {error}. Nothing was left there that was not there before."
        ) from error


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_in_place(staging: Path, folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        staging.replace(folder)
        return
    old = staging.with_suffix(".replaced")
    folder.replace(old)
    try:
        staging.replace(folder)
    except BaseException:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
