"""Find the images of a folder, and the splits that it holds."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_vbp.data.decoding import printable
from hf_vbp.errors import DataError

EXTENSIONS = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
SPLITS = frozenset(
    (
        "calibration",
        "dev",
        "eval",
        "evaluation",
        "test",
        "testing",
        "train",
        "training",
        "val",
        "valid",
        "validation",
    )
)
_MOST_LEVELS = 64


def scan(root: Path) -> tuple[list[str], list[int]]:
    """Return the images under a folder as sorted relative paths with ``/``, and their sizes in bytes.

    Links to files that do not exist, pipes and the like are listed with the size -1; they are bad images. Links to
    folders are followed.

    Raises:
        DataError: A folder cannot be read, or a link refers to a folder that contains it.
    """
    found = sorted(_walk(str(root), "", ()))
    return [name for name, _ in found], [size for _, size in found]


def _walk(directory: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, int]]:
    own = _identity(directory)
    if own in parents or len(parents) > _MOST_LEVELS:
        raise DataError(
            f"The folder {printable(directory)} is a link that refers to a folder that contains it: remove the link."
        )
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if _is_folder(entry):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*parents, own))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield prefix + entry.name, _size(entry)


def _identity(directory: str) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_dev, status.st_ino


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size if entry.is_file() else -1
    except OSError:
        return -1


def find_splits(files: Sequence[str]) -> dict[str, list[str]]:
    """Return the folders, by the folder above them, that are splits of one data set rather than classes.

    Only folders with images count. They count as splits when all of them are named as splits (``train``,
    ``train2017``, ``test_set``), when two have exactly such a name, or when one with such a name holds folders of
    images, which the folders of classes do not.

    Args:
        files: Relative paths with ``/``.
    """
    children: dict[str, dict[str, bool]] = {}
    for file in files:
        parts = file.split("/")[:-1]
        for depth, name in enumerate(parts):
            named = children.setdefault("/".join(parts[:depth]), {})
            named[name] = named.get(name, False) or depth + 1 < len(parts)
    found = {}
    for parent, named in children.items():
        exact = [name for name in named if name.casefold() in SPLITS]
        like = [name for name in named if SPLITS.intersection(re.findall("[a-z]+", name.casefold()))]
        whole = len(like) == len(named) and (len(named) > 1 or exact)
        if whole or len(exact) > 1 or any(named[name] for name in exact):
            found[parent] = sorted(like if whole else exact)
    return found


def split_folder(root: Path, split: str) -> Path:
    """Return the folder of a named split: directly under a folder, or one level deeper.

    Raises:
        DataError: There is none, or there are several.
    """
    folders = _folders(root)
    if split in folders:
        return root / split
    deeper = [f"{folder}/{name}" for folder in folders for name in _folders(root / folder)]
    matching = [name for name in deeper if name == split or name.rpartition("/")[2] == split]
    if len(matching) == 1:
        return root / matching[0]
    if matching:
        raise DataError(
            f"The folder {root} has several folders {split!r} ({', '.join(matching[:5])}): name one of them as the "
            f"split."
        )
    shown = ", ".join(map(printable, folders[:5])) or "none"
    raise DataError(f"The folder {root} has no split {split!r}: its folders are {shown}.")


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
