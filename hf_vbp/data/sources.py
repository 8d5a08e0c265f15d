"""Open anything that a user names or passes as images."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.data.dataset import is_saved, open_dataset, open_saved, own_split
from hf_vbp.data.decoding import printable
from hf_vbp.data.folder import open_folder
from hf_vbp.data.hub import open_hub
from hf_vbp.data.records import ImageSource
from hf_vbp.data.scan import EXTENSIONS
from hf_vbp.data.shards import open_shards
from hf_vbp.errors import DataError

Columns = tuple[str | None, str | None]


def open_source(
    source: Any,
    *,
    split: str | None,
    revision: str | None,
    streaming: bool,
    purpose: str,
    columns: Columns,
    shuffle_buffer: int,
    wants_labels: bool,
    hub: Mapping[str, Any],
) -> ImageSource | None:
    """Open anything that a user names or passes as images.

    Args:
        source: See :func:`hf_vbp.data.load_images`.
        split: The split, None to choose it.
        revision: The revision of a data set on the Hub.
        streaming: Whether to read a data set of the Hub as a stream.
        purpose: ``"calibration"`` or ``"evaluation"``, which decides the split where none is named.
        columns: The image column and the label column, None to find them.
        shuffle_buffer: Number of examples in the shuffle buffer of a stream.
        wants_labels: Whether labels are needed, so that a table of labels in a folder is read.
        hub: ``token`` and ``cache_dir`` of a data set on the Hub.

    Returns:
        The source; None when it holds images that were prepared already.

    Raises:
        DataError: It cannot be found or read.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_object(source, split, columns, shuffle_buffer)
    text = os.fspath(source)
    path = Path(text).expanduser()
    try:
        if text == "sample":
            return _open_sample(split or purpose, columns)
        if path.is_dir() and is_saved(path):
            return open_saved(path, split=split, purpose=purpose, columns=columns)
        if _names_shards(text, path):
            return open_shards(text, split=split, columns=columns, shuffle_buffer=shuffle_buffer)
        if path.is_dir() and not _is_dataset_folder(path):
            return open_folder(path, split, purpose, wants_labels=wants_labels, label_column=columns[1])
        _check_named(text, path)
    except OSError as error:
        raise DataError(
            f"The images {printable(text)} cannot be read ({printable(one_line(error))}): check the path and its "
            f"permissions."
        ) from error
    return open_hub(
        str(path) if path.is_dir() else text,
        split=split,
        revision=revision,
        streaming=streaming,
        purpose=purpose,
        columns=columns,
        shuffle_buffer=shuffle_buffer,
        **hub,
    )


def _open_sample(split: str, columns: Columns) -> ImageSource:
    from hf_vbp.sample import open_sample

    dataset, provenance = open_sample(split)
    return open_dataset(dataset, provenance, columns)


def _check_named(text: str, path: Path) -> None:
    if path.is_file():
        raise DataError(f"{printable(str(path))} is a file: give the folder of images that contains it.")
    if not path.exists() and _looks_like_a_path(text):
        raise DataError(
            f"There is no folder {printable(str(path))}: give a folder of images, tar shards, or a data set of the "
            f"Hub."
        )


def _open_object(source: Any, split: str | None, columns: Columns, shuffle_buffer: int) -> ImageSource | None:
    import datasets

    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        if split is None:
            raise DataError(
                f"The data set has the splits {', '.join(source)}: name one of them with split, or pass it."
            )
        if split not in source:
            raise DataError(f"The data set has no split {split!r}: its splits are {', '.join(source)}.")
        return _open_one(source[split], split, columns, shuffle_buffer)
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        name = source.info.dataset_name or type(source).__name__
        return _open_one(source, own_split(source, split, name), columns, shuffle_buffer)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise DataError(
            f"A {type(source).__name__} is not a source of images: give a path, the name of a data set, a data set, "
            f"or an iterable of dicts with pixel_values."
        )
    if split is not None:
        raise DataError(f"A {type(source).__name__} has no splits: give the images of {split!r} without split.")
    return None


def _open_one(dataset: Any, split: str | None, columns: Columns, shuffle_buffer: int) -> ImageSource:
    provenance = {
        "source": dataset.info.dataset_name or type(dataset).__name__,
        "kind": "dataset",
        "split": split,
        "revision": None,
    }
    return open_dataset(dataset, provenance, columns, shuffle_buffer=shuffle_buffer)


def _names_shards(text: str, path: Path) -> bool:
    if path.is_dir():
        names = [name for name in os.listdir(path) if not name.startswith(".")]
        return any(name.endswith(".tar") for name in names) and not any(
            os.path.splitext(name)[1].lower() in EXTENSIONS for name in names
        )
    return text.endswith(".tar")


def _is_dataset_folder(path: Path) -> bool:
    """Whether ``datasets`` reads a folder (Parquet or Arrow files, or a card with its layout), rather than images."""
    return any(next(path.glob(pattern), None) is not None for pattern in ("*.parquet", "*/*.parquet", "*.arrow"))


def _looks_like_a_path(text: str) -> bool:
    return text.startswith((".", "~", "/", "\\")) or os.path.isabs(text) or text.count("/") > 1 or not text.strip()
