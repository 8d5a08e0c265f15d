"""The output folder of a checkpoint: checked before the work, and held during it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from hf_vbp.checkpoint.inputs import Source, check_apart
from hf_vbp.checkpoint.manifest import Contents, is_empty, replaceable_contents, write_manifest
from hf_vbp.checkpoint.placing import NEW, flush_tree, put_in_place, settle
from hf_vbp.errors import CheckpointError
from hf_vbp.files.atomic import check_space, hidden_folder, lock_path, made_parents, remove_leftovers
from hf_vbp.files.layout import CARD
from hf_vbp.files.locking import clean_up, output_lock


def check_output_directory(
    directory: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    required_bytes: int = 0,
    inputs: Mapping[str, Source] | None = None,
) -> Path:
    """Refuse a folder that a checkpoint cannot or must not be written to; call it before any long work.

    An empty folder is fine. With ``overwrite``, so is one that holds nothing but a checkpoint that hf_vbp wrote, as
    its manifest shows, and a README.md, which is kept.

    Args:
        directory: Where the checkpoint is written. A link is followed.
        overwrite: Whether a checkpoint there may be replaced.
        required_bytes: The bytes that will be written, as far as they are known.
        inputs: Files and folders that the run reads, by their description. The output must not hold them.

    Returns:
        The folder as an absolute path without links.

    Raises:
        CheckpointError: The folder is taken or holds an input, its place cannot be written to, or the disk is full.
    """
    folder = _resolved(directory)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise CheckpointError(f"{directory} is a file, expected a folder or a new name. Choose another output.")
    check_apart(directory, inputs or {})
    _contents(folder, overwrite)
    place = folder if must_stay(folder) else next(parent for parent in folder.parents if parent.exists())
    for written in {place, folder} if folder.is_dir() else {place}:
        if not written.is_dir() or not os.access(written, os.W_OK | os.X_OK):
            raise CheckpointError(
                f"{directory} cannot be made: {written} is not a folder that can be written to. Choose another output."
            )
    check_space(directory, place, required_bytes, CheckpointError)
    return folder


@contextmanager
def reserved(
    directory: str | os.PathLike[str],
    overwrite: bool = False,
    *,
    required_bytes: int = 0,
    inputs: Mapping[str, Source] | None = None,
) -> Iterator[Path]:
    """Check an output and hold it for this process until the block ends; see :func:`check_output_directory`.

    Files that killed processes left for the same output are first restored or removed.

    Raises:
        CheckpointError: As :func:`check_output_directory`, or another process writes to the same output.
    """
    folder = _resolved(directory)
    inside = _lock_is_inside(folder)
    with made_parents(folder), output_lock(lock_path(folder, inside=inside), folder, CheckpointError):
        for place in (folder.parent, folder):
            remove_leftovers(folder, place, partial(settle, folder=folder))
        check_output_directory(directory, overwrite, required_bytes=required_bytes, inputs=inputs)
        yield folder


@contextmanager
def staged(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder whose files replace those in ``folder`` when the block ends.

    If the block fails, the new folder is removed and ``folder`` is not modified.

    Args:
        folder: Where the files are written, as returned by :func:`check_output_directory`.
        overwrite: Whether a checkpoint there is replaced.

    Raises:
        CheckpointError: A file could not be written, for instance because the disk is full, or files came to
            ``folder`` that must not be replaced.
    """
    try:
        with made_parents(folder), hidden_folder(folder, folder if must_stay(folder) else folder.parent) as hidden:
            try:
                new = hidden / NEW
                new.mkdir()
                yield new
                contents = _contents(folder, overwrite)
                keep = contents.has_own_card
                if keep:
                    _keep_card(folder, new, stays=hidden.parent == folder)
                write_manifest(new, without=frozenset({CARD}) if keep else frozenset())
                flush_tree(new)
                put_in_place(hidden, folder, contents.replaceable)
            finally:
                clean_up(lambda: settle(hidden, folder))
    except CheckpointError:
        raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} could not be written: {error}. The files that were there before are not modified."
        ) from error


def must_stay(folder: Path) -> bool:
    """Return whether a folder cannot be replaced as a whole, so that its files are replaced one by one.

    It is a mount point, the current folder or one that contains it, or in a folder that cannot be written to.
    """
    if not folder.is_dir():
        return False
    try:
        here = Path.cwd()
    except FileNotFoundError:
        # The current folder was removed, so no folder that exists contains it.
        return _lock_is_inside(folder)
    return _lock_is_inside(folder) or any(os.path.samefile(folder, parent) for parent in (here, *here.parents))


def _lock_is_inside(folder: Path) -> bool:
    # Processes in different containers see one mounted volume under different parents, but the same inside.
    if not folder.is_dir():
        return False
    return os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)


def _resolved(directory: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.realpath(Path(directory).expanduser()))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{directory} is not the path of a folder: {error}. Choose another output.") from error


def _contents(folder: Path, overwrite: bool) -> Contents:
    if not folder.is_dir() or is_empty(folder):
        return Contents()
    if not overwrite:
        raise CheckpointError(
            f"{folder} exists and is not empty; nothing was changed. Choose another output, remove the folder, or "
            "pass overwrite=True (--overwrite)."
        )
    return replaceable_contents(folder)


def _keep_card(folder: Path, new: Path, *, stays: bool) -> None:
    if stays:
        (new / CARD).unlink(missing_ok=True)
    else:
        shutil.copy2(folder / CARD, new / CARD)
