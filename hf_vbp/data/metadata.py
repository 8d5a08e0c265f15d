"""Labels in ``metadata.csv`` or ``metadata.jsonl`` next to the images, the layout of image folders on the Hub."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp.data.columns import LABEL_NAMES
from hf_vbp.errors import DataError, LabelError

NAMES = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"


def metadata_file(directory: Path) -> Path | None:
    """Return the file with the metadata of the images of a folder; None where there is none."""
    return next((directory / name for name in NAMES if (directory / name).is_file()), None)


def read_labels(path: Path, files: Sequence[str], column: str | None) -> list[Any] | None:
    """Return the label of each image.

    Args:
        path: The file, a table with the column ``file_name``.
        files: The images, relative to the folder of the file, with ``/``.
        column: The column of the labels; None to find it by its name.

    Returns:
        The labels in the order of ``files``; None where no column is named as labels are.

    Raises:
        DataError: The file cannot be read.
        LabelError: An image has no label in it.
    """
    labels: dict[str, Any] = {}
    try:
        for number, row in enumerate(_rows(path), start=1):
            column = _column(row, column, path)
            if column is None:
                return None
            if not isinstance(row.get(_FILE), str):
                raise DataError(f"{path} has no {_FILE} in row {number}: every row must name its image there.")
            labels[row[_FILE].replace("\\", "/").removeprefix("./")] = row.get(column)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as a table of images and labels ({error}): correct it.") from error
    missing = [file for file in files if labels.get(file) in (None, "")]
    if missing:
        raise LabelError(
            f"{path} gives no label for {len(missing)} of {len(files)} images (first {missing[0]!r}): add them, or "
            f"move these images elsewhere."
        )
    return [labels[file] for file in files]


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: Iterable[Any] = csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file)
        for row in rows:
            if not isinstance(row, Mapping):
                raise DataError(f"{path} has a line that is not an object with {_FILE}: correct it.")
            yield row


def _column(row: Mapping[str, Any], column: str | None, path: Path) -> str | None:
    if column is None:
        return next((name for name in LABEL_NAMES if name in row), None)
    if column not in row:
        raise DataError(f"{path} has no column {column!r}: its columns are {', '.join(map(str, row))}.")
    return column
