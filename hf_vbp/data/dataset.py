"""Images in a ``Dataset`` or ``IterableDataset`` of the ``datasets`` library."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.data.columns import PREPARED, image_column, label_column, read_features
from hf_vbp.data.decoding import printable
from hf_vbp.data.folder import short_name
from hf_vbp.data.lazy_sequence import LazySequence
from hf_vbp.data.records import ImageSource, Record
from hf_vbp.data.splits import choose_split
from hf_vbp.errors import DataError, HfVbpError


def open_dataset(
    dataset: Any,
    provenance: dict[str, Any],
    columns: tuple[str | None, str | None],
    *,
    total: int | None = None,
    shuffle_buffer: int = 1000,
) -> ImageSource:
    """Find the columns of a data set.

    Args:
        dataset: A ``datasets.Dataset`` or ``datasets.IterableDataset``.
        provenance: A description of where it comes from.
        columns: The image column and the label column, None to find them.
        total: The number of examples of a stream, where it is known.
        shuffle_buffer: Number of examples in the shuffle buffer of a stream.

    Raises:
        DataError: The data set is empty, or has no such columns, or several candidates.
    """
    import datasets

    streaming = isinstance(dataset, datasets.IterableDataset)
    if not streaming:
        dataset = dataset.with_format(None)  # a format set for another purpose would change the rows
    name = str(provenance["source"])
    if not streaming and len(dataset) == 0:
        raise DataError(f"The data set {name} is empty: give one with images.")
    features = read_features(dataset, name)
    image = image_column(features, columns[0], name)
    label = label_column(features, columns[1], image, name)
    prepared = image == PREPARED and not isinstance(features.get(image), datasets.Image)
    if isinstance(features.get(image), datasets.Image):
        # hf_vbp decodes, so that all sources are decoded in the same way, and a bad image can be named.
        dataset = dataset.cast_column(image, datasets.Image(decode=False))
    feature = features.get(label) if label else None
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    fields = Fields(image, label, name)
    if streaming:
        stream = Stream(dataset, fields, provenance, shuffle_buffer, names, prepared)
        return stream.source(total)
    if prepared:
        dataset = dataset.with_format("numpy", columns=[image], output_all_columns=True)
    found = dataset.unique(label) if isinstance(feature, datasets.ClassLabel | datasets.Value) else []
    text = names is None and getattr(feature, "dtype", "") in ("string", "large_string")
    if text:
        names = tuple(sorted(value for value in found if value is not None))
    provenance.setdefault("fingerprint", dataset._fingerprint)
    return ImageSource(
        records=_Rows(dataset, fields),
        labelled=label is not None,
        class_names=names,
        provenance=provenance,
        images=len(dataset),
        prepared=prepared,
        missing_labels=None in found,
        text_labels=text,
    )


class Fields:
    """The columns of the image and the label in a row.

    Args:
        image: The column of the image.
        label: The column of the label, or ``column.field``; None for no labels.
        source: The name of the data set for messages.
    """

    def __init__(self, image: str, label: str | None, source: str) -> None:
        self._image = image
        self.label = label
        self.source = source

    def record(self, row: Mapping[str, Any], index: int) -> Record:
        """Return the record of one row; ``index`` is its number for messages."""
        image = row[self._image]
        label: Any = None
        if self.label is not None:
            label = row[self.label] if self.label in row else _nested(row, self.label)
        return Record(self._name(row, image, index), image, label)

    def _name(self, row: Mapping[str, Any], image: Any, index: int) -> str:
        if "__key__" in row:
            shard = printable(Path(str(row.get("__url__", self.source))).name)
            return f"{shard}/{row['__key__']}" if row["__key__"] else shard
        path = image.get("path") if isinstance(image, Mapping) else None
        return f"{self.source}, row {index}" + (f" ({path})" if path else "")


class _Rows(LazySequence[Record]):
    """The rows of a map-style data set as records."""

    def __init__(self, dataset: Any, fields: Fields) -> None:
        self._dataset = dataset
        self._fields = fields

    def __len__(self) -> int:
        return len(self._dataset)

    def item(self, index: int) -> Record:
        return self._fields.record(self._dataset[index], index)


class _StreamedRows(Iterable[Record]):
    """The examples of a streaming data set as records; ``datasets`` shares them among worker processes."""

    def __init__(self, dataset: Any, fields: Fields) -> None:
        self._dataset = dataset
        self._fields = fields

    def reshuffle(self, epoch: int) -> None:
        """Draw another order; ``datasets`` passes it on to persistent worker processes."""
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Record]:
        for index, row in enumerate(self._rows()):
            yield self._fields.record(row, index)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from self._dataset
        except (OSError, ValueError, EOFError) as error:
            if isinstance(error, HfVbpError):
                raise
            raise DataError(
                f"The data set {self._fields.source} cannot be read any further ({one_line(error)}): check its files "
                f"and the connection."
            ) from error


@dataclass(frozen=True)
class Stream:
    """A streaming data set, and how it is read.

    Attributes:
        dataset: An ``IterableDataset``.
        fields: Its columns.
        provenance: A description of where it comes from.
        shuffle_buffer: Number of examples in the shuffle buffer.
        names: The class names of the numbers; None where they are not known.
        prepared: Whether its images are ``pixel_values``.
    """

    dataset: Any
    fields: Fields
    provenance: dict[str, Any]
    shuffle_buffer: int
    names: tuple[str, ...] | None = None
    prepared: bool = False

    def source(self, total: int | None) -> ImageSource:
        """Return the stream as a source of ``total`` images, None where that is not known."""
        self.provenance.setdefault("fingerprint", None)
        return ImageSource(
            records=_StreamedRows(self.dataset, self.fields),
            labelled=self.fields.label is not None,
            class_names=self.names,
            provenance=self.provenance,
            images=total,
            shards=self.dataset.num_shards,
            select=partial(self._select, total),
            prepared=self.prepared,
        )

    def _select(self, total: int | None, limit: int | None, seed: int | None) -> ImageSource:
        chosen = self.dataset
        if seed is not None:
            chosen = chosen.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        if limit is not None:
            chosen = chosen.take(limit)
            total = None if total is None else min(limit, total)
        extra = {} if seed is None else {"shuffle_buffer": self.shuffle_buffer}
        return replace(self, dataset=chosen, provenance=self.provenance | extra).source(total)


def _nested(row: Mapping[str, Any], dotted: str) -> Any:
    """Return ``row["a"]["b"]`` for ``a.b``; None where there is no such field."""
    value: Any = row
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of ``datasets``."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def open_saved(path: Path, *, split: str | None, purpose: str, columns: tuple[str | None, str | None]) -> ImageSource:
    """Open a folder that ``save_to_disk`` of ``datasets`` wrote.

    Raises:
        DataError: It cannot be read, or has no such split or columns.
        ConfigurationError: No split suits the purpose.
    """
    import datasets

    name = short_name(path)
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The folder {name}, written by save_to_disk, cannot be read ({one_line(error)}): write it again."
        ) from error
    if isinstance(found, datasets.DatasetDict):
        split = choose_split(list(found), split, purpose, name)
        if split not in found:
            raise DataError(f"The data set {name} has no split {split!r}: its splits are {', '.join(found)}.")
        found = found[split]
    else:
        split = own_split(found, split, name)
    provenance = {"source": name, "kind": "saved_dataset", "split": split, "revision": None}
    return open_dataset(found, provenance, columns)


def own_split(dataset: Any, asked: str | None, name: str) -> str | None:
    """Return the split of a single data set, None where it has none.

    Raises:
        DataError: Another split was requested.
    """
    own = str(dataset.split) if dataset.split else None
    if asked is not None and own is not None and asked != own:
        raise DataError(f"The data set {name} is the split {own!r}, not {asked!r}: give the other one.")
    if asked is not None and own is None:
        raise DataError(f"The data set {name} is a single split without a name: give it without split={asked!r}.")
    return own
