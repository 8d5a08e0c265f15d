"""Images in a folder: one sub-folder per class, or all together without labels."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_vbp.data.decoding import check_header
from hf_vbp.data.lazy_sequence import LazySequence
from hf_vbp.data.records import ImageSource, Record
from hf_vbp.errors import DataError

EXTENSIONS = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_SPLITS = frozenset(
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


class FolderRecords(LazySequence[Record]):
    """The images of a folder as records, by their path relative to it."""

    def __init__(self, root: Path, files: Sequence[str], labelled: bool) -> None:
        self._root = root
        self._files = files
        self._labelled = labelled

    def __len__(self) -> int:
        return len(self._files)

    def item(self, index: int) -> Record:
        """Return the record of one file."""
        file = self._files[index]
        path = self._root / file
        return Record(str(path), path, file.split("/", 1)[0] if self._labelled else None)

    def check(self, indices: Sequence[int]) -> None:
        """Refuse the first of the files that does not begin like an image."""
        for index in indices:
            path = self._root / self._files[index]
            check_header(path, str(path))


def open_folder(root: Path, split: str | None, purpose: str) -> ImageSource:
    """Find the images of a folder; their labels are the names of the folders directly under it.

    Args:
        root: The folder.
        split: The sub-folder that is meant, where the folder holds several splits.
        purpose: ``"calibration"`` or ``"evaluation"``, for the advice in an error.

    Raises:
        DataError: The folder has no such split, or no images, or several splits to choose from.
    """
    directory = _split_directory(root, split, purpose)
    files, sizes = _scan(directory)
    if not files:
        others = sorted({path.suffix or path.name for path in directory.rglob("*") if path.is_file()})[:5]
        found = f"only files like {', '.join(others)}" if others else "no files"
        raise DataError(
            f"The folder {directory} holds no images ({found}): give a folder with images, in one sub-folder per "
            f"class or all together; files are known by their extension ({', '.join(sorted(EXTENSIONS))})."
        )
    folders = {file.split("/", 1)[0] for file in files if "/" in file}
    loose = [file for file in files if "/" not in file]
    # A few pictures beside the class folders make the labels of the whole unknown, not only their own.
    labelled = bool(folders) and not loose
    records = FolderRecords(directory, files, labelled)
    return ImageSource(
        records=records,
        labelled=labelled,
        class_names=tuple(sorted(folders)) if labelled else None,
        provenance={
            "source": _short_name(root),
            "kind": "image_folder",
            "split": split,
            "revision": None,
            "fingerprint": _fingerprint(files, sizes),
        },
        images=len(files),
        check=records.check,
    )


def _split_directory(root: Path, split: str | None, purpose: str) -> Path:
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if split is not None:
        if split not in folders:
            shown = ", ".join(folders[:5]) or "none"
            raise DataError(f"The folder {root} has no split {split!r}: its folders are {shown}.")
        return root / split
    if folders and all(name.casefold() in _SPLITS for name in folders):
        raise DataError(
            f"The folder {root} holds the splits {', '.join(folders)}: say which one is meant for {purpose}, "
            f"as {root / folders[0]} or as the split {folders[0]!r}."
        )
    return root


def _scan(root: Path) -> tuple[list[str], list[int]]:
    """Return the images as sorted relative paths with ``/``, and their sizes in bytes."""
    found = sorted(_walk(str(root), ""))
    return [name for name, _ in found], [size for _, size in found]


def _walk(directory: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not _is_special(entry):
                yield prefix + entry.name, entry.stat().st_size


def _is_special(entry: os.DirEntry[str]) -> bool:
    # Opening a named pipe waits for a writer, forever; a dangling link is refused when it is read.
    return os.path.exists(entry.path) and not entry.is_file()


def _fingerprint(files: Sequence[str], sizes: Sequence[int]) -> str:
    """Return a SHA-256 over names and sizes, which tells folders apart without reading the images."""
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        digest.update(f"{file}\0{size}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _short_name(root: Path) -> str:
    """Return the last two parts of the path: enough to tell what it was, and nothing of where it lay."""
    return "/".join(part for part in root.resolve().parts[-2:] if part != os.sep)
