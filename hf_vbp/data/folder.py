"""Images in a folder: one sub-folder per class, with a table of labels, or without labels."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_vbp.data.decoding import check_header, printable
from hf_vbp.data.lazy_sequence import LazySequence
from hf_vbp.data.metadata import metadata_file, read_labels
from hf_vbp.data.records import ImageSource, Record
from hf_vbp.data.scan import EXTENSIONS, find_splits, scan, split_folder
from hf_vbp.errors import DataError


class FolderRecords(LazySequence[Record]):
    """The images of a folder as records, by their path relative to it."""

    def __init__(self, root: Path, files: Sequence[str], labels: Sequence[Any] | None) -> None:
        self._root = root
        self._files = files
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def item(self, index: int) -> Record:
        """Return the record of one file."""
        path = self._root / self._files[index]
        return Record(printable(str(path)), path, None if self._labels is None else self._labels[index])

    def check(self, indices: Sequence[int]) -> None:
        """Refuse files whose first bytes are not those of an image."""
        for index in indices:
            path = self._root / self._files[index]
            check_header(path, printable(str(path)))


def open_folder(
    root: Path, split: str | None, purpose: str, *, wants_labels: bool, label_column: str | None
) -> ImageSource:
    """Find the images of a folder.

    Their labels are in the column ``label`` of ``metadata.csv`` or ``metadata.jsonl`` where there is one, otherwise
    the names of the folders directly under it.

    Args:
        root: The folder.
        split: The sub-folder to read, where the folder holds several splits.
        purpose: ``"calibration"`` or ``"evaluation"``, for the advice in an error.
        wants_labels: Whether to read a table of labels.
        label_column: The column of that table.

    Raises:
        DataError: The folder has no such split, no images, or several splits to choose from.
        LabelError: An image has no label in the table.
    """
    directory = root if split is None else split_folder(root, split)
    files, sizes = scan(directory)
    if not files:
        raise _no_images(directory)
    _check_splits(directory, files, purpose)
    labels = _labels(directory, files, label_column) if wants_labels else _class_folders(files)
    records = FolderRecords(directory, files, labels)
    named = labels is not None and all(isinstance(label, str) for label in labels)
    return ImageSource(
        records=records,
        labelled=labels is not None,
        class_names=tuple(sorted(set(labels or ()))) if named else None,
        provenance={
            "source": short_name(root),
            "kind": "image_folder",
            "split": split,
            "revision": None,
            "fingerprint": _fingerprint(files, sizes),
        },
        images=len(files),
        check=records.check,
        text_labels=named,
    )


def _no_images(directory: Path) -> DataError:
    others = sorted({path.suffix or path.name for path in directory.rglob("*") if path.is_file()})[:5]
    found = f"only files like {', '.join(map(printable, others))}" if others else "no files"
    return DataError(
        f"The folder {printable(str(directory))} holds no images ({found}): give a folder with images, in one "
        f"sub-folder per class or all together; image files are recognized by their extension "
        f"({', '.join(sorted(EXTENSIONS))})."
    )


def _check_splits(directory: Path, files: Sequence[str], purpose: str) -> None:
    found = find_splits(files)
    if found:
        parent, names = min(found.items())
        where = directory / parent
        raise DataError(
            printable(
                f"The folder {where} holds the splits {', '.join(names)}: choose one for {purpose}, as the folder "
                f"{where / names[0]} or as the split {names[0]!r}."
            )
        )


def _labels(directory: Path, files: Sequence[str], column: str | None) -> list[Any] | None:
    table = metadata_file(directory)
    found = None if table is None else read_labels(table, files, column)
    if column is not None and found is None:
        raise DataError(
            f"label_column is {column!r}, but the folder {directory} has no metadata.csv or metadata.jsonl with such "
            f"a column: its labels are the names of its folders."
        )
    return _class_folders(files) if found is None else found


def _class_folders(files: Sequence[str]) -> list[Any] | None:
    # A few images next to the class folders make the labels of the whole folder unknown, not only theirs.
    return [file.split("/", 1)[0] for file in files] if all("/" in file for file in files) else None


def _fingerprint(files: Sequence[str], sizes: Sequence[int]) -> str:
    """Return a SHA-256 over names and sizes, which distinguishes folders without reading the images."""
    digest = hashlib.sha256()
    for file, size in zip(files, sizes, strict=True):
        digest.update(os.fsencode(f"{file}\0{size}\n"))
    return f"sha256:{digest.hexdigest()}"


def short_name(root: Path) -> str:
    """Return the last two parts of a path, which identify the data set without its location."""
    return printable("/".join(part for part in root.resolve().parts[-2:] if part != os.sep))
