"""Write files so that they are complete or absent, in hidden folders that a later run recognizes and removes."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_vbp.errors import CheckpointError, HfVbpError, OutputError
from hf_vbp.files.locking import clean_up, is_windows, try_lock
from hf_vbp.files.text import read_small_text

MARKER = "hf_vbp_unfinished.json"
# In a hidden folder: the old content of the output. A hidden folder that still has it is never removed.
OLD = "replaced"
_FORMAT = "hf_vbp.unfinished"
_UNNAMED = f"{MARKER}.new"


def atomic_write(path: str | os.PathLike[str], content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file in full next to ``path``, force it to disk, and rename it to ``path``.

    A kill at any moment leaves the old file or the new one. A link is followed, and the permissions of a file that
    is replaced are kept. Files that killed writes of the same file left are removed.

    Args:
        path: The file.
        content: Text, bytes, or a function that writes the file to the path it is given.

    Raises:
        OutputError: ``path`` exists and is not a regular file.
        OSError: The file cannot be written; ``path`` is not modified.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OutputError(f"{path} is not a regular file, expected the name of a file. Choose another output.")
    remove_leftovers(target, target.parent)
    with hidden_folder(target, target.parent) as folder:
        new = folder / "new"
        if callable(content):
            content(new)
        else:
            new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        if target.exists():
            shutil.copymode(target, new)
        flush(new)
        os.replace(new, target)
        flush(target.parent)


def flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    if is_windows():
        # Windows neither opens folders nor flushes files that are open for reading only.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def hidden_folder(target: Path, place: Path) -> Iterator[Path]:
    """Make a hidden folder in ``place`` for the unfinished files of ``target``, and remove it at the end.

    It carries a marker file that is locked as long as this process lives.
    """
    folder = place / f".{_stem(target)}.{uuid.uuid4().hex[:12]}.partial"
    folder.mkdir()
    try:
        descriptor = _mark(folder, target)
        try:
            yield folder
        finally:
            os.close(descriptor)
    finally:
        clean_up(lambda: _remove(folder))


def remove_leftovers(target: Path, place: Path, settle: Callable[[Path], None] | None = None) -> None:
    """Remove the hidden folders in ``place`` that killed processes left for ``target``.

    Folders of running processes, of other users and without the marker are not touched.

    Args:
        target: The output.
        place: The folder that is searched.
        settle: Called with each before it is removed, to restore its content.
    """
    try:
        found = [path for path in place.iterdir() if is_hidden_folder(path, target)]
    except OSError:
        # A folder that cannot be listed: nothing in it could be removed either.
        return
    for path in found:
        with _claimed(path) as mine:
            if mine:
                if settle is not None:
                    settle(path)
                if not is_windows():
                    _remove(path)
        if mine and is_windows():
            # The marker was open before, and could not be removed.
            _remove(path)


def is_hidden_folder(path: Path, target: Path) -> bool:
    """Return whether ``path`` is a hidden folder of hf_vbp for the output ``target``."""
    name = re.escape(f".{_stem(target)}.") + r"[0-9a-f]{12}\.partial"
    if re.fullmatch(name, path.name) is None or path.is_symlink() or not path.is_dir():
        return False
    try:
        if not is_windows() and path.stat().st_uid != os.geteuid():
            return False
        names = set(os.listdir(path))
        if names <= {_UNNAMED}:
            # Its process ended before it marked the folder.
            return True
        content = json.loads(read_small_text(path / MARKER))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def lock_path(target: Path, *, inside: bool = False) -> Path:
    """Return the lock file of an output: next to it, or in it."""
    return target / ".vbp-lock" if inside else target.parent / f".{_stem(target)}.vbp-lock"


def check_space(output: str | os.PathLike[str], place: Path, required: int, error: type[HfVbpError]) -> None:
    """Refuse an output that does not fit on its disk.

    Args:
        output: The output, for the message.
        place: A folder on the disk, which need not exist yet.
        required: The bytes that will be written, as far as they are known.
        error: The class of the error.

    Raises:
        HfVbpError: Less than ``required`` bytes are free.
    """
    usage = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists()))
    free = usage.free
    if usage.total == 0:
        # Some network file systems do not report their size.
        return
    if free == 0:
        raise error(f"{output} cannot be written: its disk is full. Make room, or choose another output.")
    if free < required:
        raise error(
            f"{output} needs {readable_size(required)}, but {readable_size(free)} are free on that disk. "
            "Make room, or choose another output."
        )


def readable_size(size: int) -> str:
    """Return a readable number of bytes, such as ``"1.5 kB"``."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"


@contextmanager
def made_parents(target: Path, error: type[HfVbpError] = CheckpointError) -> Iterator[None]:
    """Make the missing parents of ``target``; at the end remove those of them that hold nothing.

    Raises:
        HfVbpError: They cannot be made.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise error(
                f"{target} cannot be made: {target.parent} is not a folder that can be written to "
                f"({cause.strerror}). Choose another output."
            ) from cause
        yield
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()


def _stem(target: Path) -> str:
    # The names of the hidden folders must not become longer than file systems allow.
    name = os.fsencode(target.name)
    return target.name if len(name) <= 200 else hashlib.sha256(name).hexdigest()[:32]


def _mark(folder: Path, target: Path) -> int:
    # Locked before it has its name: a marker that can be locked by others belongs to a process that has ended.
    unnamed = folder / _UNNAMED
    unnamed.write_text(json.dumps({"format": _FORMAT, "output": target.name, "pid": os.getpid()}), encoding="utf-8")
    descriptor = os.open(unnamed, os.O_RDWR)
    try_lock(descriptor)
    if is_windows():
        # An open file cannot be renamed there.
        os.close(descriptor)
        os.replace(unnamed, folder / MARKER)
        descriptor = os.open(folder / MARKER, os.O_RDWR)
        try_lock(descriptor)
    else:
        os.replace(unnamed, folder / MARKER)
    return descriptor


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    marker = next((folder / name for name in (MARKER, _UNNAMED) if (folder / name).exists()), None)
    try:
        descriptor = os.open(marker or folder, os.O_RDWR if marker else os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        # Without locks it is unknown whether the process still runs, so the folder is not touched.
        yield try_lock(descriptor) is True
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if (folder / OLD).exists():
        return
    with suppress(OSError):
        # The marker is removed last, so that a partly removed folder is still recognized.
        for path in list(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARKER:
                path.unlink()
        (folder / MARKER).unlink(missing_ok=True)
        folder.rmdir()
