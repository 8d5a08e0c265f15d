"""The outputs of the commands: checked before any work, and held until it ends."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_vbp.checkpoint.atomic_folder import check_output_directory, reserved
from hf_vbp.checkpoint.inputs import Source, check_file_apart, local_path
from hf_vbp.errors import OutputError
from hf_vbp.files.atomic import check_space, lock_path, made_parents, remove_leftovers
from hf_vbp.files.locking import output_lock

if TYPE_CHECKING:
    from hf_vbp.workflow.requests import DataRequest


def input_sources(
    *,
    model: Source = None,
    data: "DataRequest | None" = None,
    evaluation: "DataRequest | None" = None,
    statistics: Source = None,
) -> dict[str, Source]:
    """Return the inputs of a command by their description."""
    return {
        "the model": model,
        "the folder of the images": None if data is None else data.source,
        "the folder of the evaluation images": None if evaluation is None else evaluation.source,
        "the statistics": statistics,
    }


@contextmanager
def output_folder(directory: Path, overwrite: bool, inputs: Mapping[str, Source], *, leads: bool) -> Iterator[Path]:
    """Check the folder of a checkpoint, and hold it in the process that writes.

    Args:
        directory: The folder.
        overwrite: Whether a checkpoint there may be replaced.
        inputs: The inputs of the run.
        leads: Whether this is the process that writes.

    Raises:
        CheckpointError: It cannot or must not be written, or another process writes to it.
    """
    if not leads:
        yield check_output_directory(directory, overwrite, inputs=inputs)
        return
    with reserved(directory, overwrite, inputs=inputs) as folder:
        yield folder


@contextmanager
def output_file(path: Path, overwrite: bool, inputs: Mapping[str, Source], *, leads: bool = True) -> Iterator[Path]:
    """Check a file that a command writes, and hold it in the process that writes.

    Args:
        path: The file. A link is followed.
        overwrite: Whether a file there may be replaced.
        inputs: The inputs of the run.
        leads: Whether this is the process that writes.

    Raises:
        OutputError: It cannot or must not be written, or another process writes to it.
    """
    check_output_file(path, overwrite, inputs)
    if not leads:
        yield path
        return
    target = Path(os.path.realpath(path))
    with output_lock(lock_path(target), target):
        remove_leftovers(target, target.parent)
        check_output_file(path, overwrite, inputs)
        yield path


def check_output_file(path: Path, overwrite: bool, inputs: Mapping[str, Source]) -> None:
    """Refuse a file that must not or cannot be written, before any work.

    Raises:
        OutputError: It is a folder, exists and ``overwrite`` is false, is an input, or its folder does not exist.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() or target.is_symlink() or (target.exists() and not target.is_file()):
        raise OutputError(f"{path} exists and is not a file, expected the name of a file. Choose another output.")
    if target.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or pass --overwrite.")
    if not target.parent.is_dir():
        raise OutputError(f"{path} cannot be written: the folder {target.parent} does not exist.")
    check_file_apart(path, inputs)
    check_space(path, target.parent, 0, OutputError)


def check_file_space(path: Path, required_bytes: int) -> None:
    """Refuse a file that does not fit on its disk, as soon as its size is known.

    Raises:
        OutputError: Less is free.
    """
    check_space(path, Path(os.path.realpath(path)).parent, required_bytes, OutputError)


@contextmanager
def files_in_folder(
    directory: Path, names: tuple[str, ...], overwrite: bool, inputs: Mapping[str, Source]
) -> Iterator[Path]:
    """Check a folder in which a command writes some files, and hold the first of them; other files are not touched.

    The folder is made, and removed at the end if nothing was written.

    Raises:
        OutputError: It is a file or an input, cannot be written to, or has one of the files and ``overwrite`` is
            false.
    """
    folder = Path(os.path.realpath(directory))
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{directory} is a file, expected a folder or a new name. Choose another output.")
    for label, source in inputs.items():
        path = local_path(source)
        if path is not None and folder.exists() and os.path.samefile(path, folder):
            raise OutputError(f"The output {directory} is {label} of this run. Choose another output.")
    with made_parents(folder / names[0], OutputError):
        for name in names[1:]:
            check_output_file(folder / name, overwrite, inputs)
        with output_file(folder / names[0], overwrite, inputs):
            yield folder
