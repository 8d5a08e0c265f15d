"""Replace the content of an output by a new checkpoint, and repair the output of a killed process."""

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hf_vbp.files.atomic import OLD, flush, hidden_folder
from hf_vbp.files.layout import CONFIG
from hf_vbp.files.locking import clean_up
from hf_vbp.files.text import read_small_text

NEW = "new"
_JOURNAL = "journal.json"
# The folder itself cannot be renamed: a mount point, a lower layer of overlayfs, a sticky parent.
_CANNOT_RENAME = {errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step.

    Returns:
        Whether it was done; False where the system or the file system cannot.

    Raises:
        OSError: They cannot be renamed.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def put_in_place(hidden: Path, folder: Path, replaceable: Sequence[str]) -> None:
    """Move the folder ``new`` of a hidden folder to ``folder``.

    The two are exchanged in one step where the system can, and by two renames elsewhere. A hidden folder that is
    itself in ``folder``, and a folder that cannot be renamed, are handled by :func:`place_files`.

    Args:
        hidden: The hidden folder.
        folder: The output.
        replaceable: Names of the files in ``folder`` that are replaced.

    Raises:
        OSError: It is not possible. :func:`settle` then restores the old files.
    """
    if hidden.parent == folder:
        place_files(hidden, folder, replaceable)
        return
    try:
        _put_folder(hidden, folder, replaceable)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME or not folder.is_dir():
            raise
        with hidden_folder(folder, folder) as inner:
            try:
                (inner / NEW).mkdir()
                for path in (hidden / NEW).iterdir():
                    # The card of the user is only a copy there; the original is not moved.
                    if path.name in replaceable or not (folder / path.name).exists():
                        shutil.move(path, inner / NEW / path.name)
                flush_tree(inner / NEW)
                place_files(inner, folder, replaceable)
            finally:
                clean_up(lambda: settle(inner, folder))


def _put_folder(hidden: Path, folder: Path, replaceable: Sequence[str]) -> None:
    new, old = hidden / NEW, hidden / OLD
    if folder.is_dir():
        shutil.copymode(folder, new)
    if folder.is_dir() and exchange(new, folder):
        _discard(new, folder, replaceable)
    elif folder.is_dir():
        os.replace(folder, old)
        os.replace(new, folder)
        _discard(old, folder, replaceable)
    else:
        os.replace(new, folder)
    flush(folder.parent)


def place_files(hidden: Path, folder: Path, replaceable: Sequence[str]) -> None:
    """Move files one by one from the folder ``new`` of a hidden folder within ``folder`` to ``folder``.

    The old files go to the hidden folder first, beginning with config.json; the new ones come in with config.json
    as the last one. So at no moment is there a config.json with files of another checkpoint, and :func:`settle`
    can undo an interrupted placing.
    """
    new, old = hidden / NEW, hidden / OLD
    old.mkdir()
    names = [path.name for path in new.iterdir()]
    (hidden / _JOURNAL).write_text(json.dumps(names), encoding="utf-8")
    flush(hidden / _JOURNAL)
    flush(hidden)
    for name in reversed(_config_last(replaceable)):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, old / name)
    flush(folder)
    for name in _config_last(names):
        if name == CONFIG:
            flush(folder)
        os.replace(new / name, folder / name)
    flush(folder)


def settle(hidden: Path, folder: Path) -> None:
    """Bring the output of a hidden folder to one of its two states, the old one or the new one.

    Safe to call at any time, also after success. The hidden folder can be removed then.

    Raises:
        OSError: The old files cannot be restored; the hidden folder still holds them.
    """
    new, old = hidden / NEW, hidden / OLD
    if hidden.parent == folder:
        names = _read_journal(hidden)
        if any((new / name).exists() for name in names):
            for name in names:
                # The old files were moved before the first new one came, so one that is here and not there is new.
                if not (new / name).exists():
                    (folder / name).unlink(missing_ok=True)
            for name in _config_last([path.name for path in old.iterdir()] if old.is_dir() else []):
                os.replace(old / name, folder / name)
            flush(folder)
    elif old.is_dir() and not folder.exists():
        os.replace(old, folder)
        flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush_tree(folder: Path) -> None:
    """Force a folder and everything in it to disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def _config_last(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name == CONFIG)


def _discard(old: Path, folder: Path, names: Iterable[str]) -> None:
    """Delete the named files, and move files that were added to the old folder in the meantime to the new one."""
    with suppress(OSError):  # The new checkpoint is in place; the next run removes the rest of the old one.
        for name in names:
            (old / name).unlink(missing_ok=True)
        for path in old.iterdir():
            if not (folder / path.name).exists():
                os.replace(path, folder / path.name)


def _read_journal(hidden: Path) -> list[str]:
    try:
        names: list[str] = json.loads(read_small_text(hidden / _JOURNAL))
    except (FileNotFoundError, ValueError, RecursionError):
        # It is complete before the first file is moved.
        return []
    return names
