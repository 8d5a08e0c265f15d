"""From what a user names or passes to a source of images."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hf_vbp.data.folder import EXTENSIONS, open_folder
from hf_vbp.data.hub import open_dataset, open_hub, open_webdataset
from hf_vbp.data.records import ImageSource
from hf_vbp.errors import DataError


def open_source(
    source: Any,
    *,
    split: str | None,
    revision: str | None,
    streaming: bool,
    purpose: str,
    columns: tuple[str | None, str | None],
    shuffle_buffer: int,
) -> ImageSource | None:
    """Open whatever a user names or passes as images.

    Args:
        source: See :func:`hf_vbp.data.load_images`.
        split: The split, None to choose it.
        revision: The revision of a data set on the Hub.
        streaming: Whether to read a data set of the Hub as a stream.
        purpose: ``"calibration"`` or ``"evaluation"``, which decides the split that is taken by itself.
        columns: The image column and the label column, None to find them.
        shuffle_buffer: From how many examples at a time a stream is shuffled.

    Returns:
        The source; None when it holds images that were prepared already.

    Raises:
        DataError: It cannot be found or read.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_object(source, columns, shuffle_buffer)
    text = os.fspath(source)
    if text == "sample":
        from hf_vbp.sample import open_sample

        dataset, provenance = open_sample(split or purpose)
        return open_dataset(dataset, provenance, columns)
    path = Path(text).expanduser()
    if _names_shards(text, path):
        return open_webdataset(text, split=split, columns=columns, shuffle_buffer=shuffle_buffer)
    if path.is_dir() and not _is_dataset_folder(path):
        return open_folder(path, split, purpose)
    if path.is_file():
        raise DataError(f"{path} is a file: give the folder of images that it lies in.")
    if not path.exists() and _looks_like_a_path(text):
        raise DataError(f"There is no folder {path}: give a folder of images, tar shards, or a data set of the Hub.")
    return open_hub(
        str(path) if path.is_dir() else text,
        split=split,
        revision=revision,
        streaming=streaming,
        purpose=purpose,
        columns=columns,
        shuffle_buffer=shuffle_buffer,
    )


def _open_object(source: Any, columns: tuple[str | None, str | None], shuffle_buffer: int) -> ImageSource | None:
    import datasets

    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        info = source.info
        provenance = {
            "source": info.dataset_name or type(source).__name__,
            "kind": "dataset",
            "split": str(source.split) if source.split else None,
            "revision": None,
        }
        return open_dataset(source, provenance, columns, shuffle_buffer=shuffle_buffer)
    if isinstance(source, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(f"The data set has the splits {', '.join(source)}: pass one of them.")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise DataError(
            f"A {type(source).__name__} is no source of images: give a path, the name of a data set, a data set, "
            f"or an iterable of dicts with pixel_values."
        )
    return None


def _names_shards(text: str, path: Path) -> bool:
    if path.is_dir():
        names = [name for name in os.listdir(path) if not name.startswith(".")]
        return any(name.endswith(".tar") for name in names) and not any(
            os.path.splitext(name)[1].lower() in EXTENSIONS for name in names
        )
    return text.endswith(".tar")


def _is_dataset_folder(path: Path) -> bool:
    """Tell a folder that ``datasets`` reads (Parquet or Arrow files, or a card with its layout) from images."""
    return any(next(path.glob(pattern), None) is not None for pattern in ("*.parquet", "*/*.parquet", "*.arrow"))


def _looks_like_a_path(text: str) -> bool:
    return text.startswith((".", "~", "/", "\\")) or os.path.isabs(text) or text.count("/") > 1 or not text.strip()
