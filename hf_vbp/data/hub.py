"""Images in data sets of the ``datasets`` library: from the Hub, from WebDataset shards, or given as objects."""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_vbp._progress import shown
from hf_vbp.data.lazy_sequence import LazySequence
from hf_vbp.data.records import ImageSource, Record
from hf_vbp.errors import ConfigurationError, DataError

_IMAGE_NAMES = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "cls", "class", "fine_label", "target")
_PREFERRED_SPLITS = {
    "calibration": ("calibration", "train", "training"),
    "evaluation": ("evaluation", "validation", "valid", "val", "test"),
}
MOST_SHARDS = 100_000
LONGEST_NUMBER = 12
MOST_BRACES = 20
_COMMIT = re.compile(r"@([0-9a-f]{40})/")


def open_hub(
    name: str,
    *,
    split: str | None,
    revision: str | None,
    streaming: bool,
    purpose: str,
    columns: tuple[str | None, str | None],
    shuffle_buffer: int,
) -> ImageSource:
    """Open a data set ``name[:config]`` of the Hub, or a local folder that ``datasets`` can read.

    Raises:
        DataError: The data set, its configuration, its split or its columns cannot be found or reached.
    """
    import datasets

    path, _, config = (name, "", "") if Path(name).exists() else name.partition(":")
    builder = _builder(path, config or None, revision)
    chosen = _choose_split(builder, split, purpose, name)
    try:
        if streaming:
            dataset = builder.as_streaming_dataset(split=chosen)
        else:
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=chosen)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"The split {chosen!r} of the data set {name} cannot be read: {_line(error)}.") from error
    shown = name if not Path(name).exists() else Path(name).resolve().name
    provenance = {
        "source": shown,
        "kind": "hub",
        "split": chosen,
        "revision": _resolved_revision(builder, chosen) or revision,
        "fingerprint": f"builder:{builder.hash}" if builder.hash else None,
    }
    total = _examples(builder, chosen)
    return open_dataset(dataset, provenance, columns, total=total, shuffle_buffer=shuffle_buffer)


def open_webdataset(
    pattern: str, *, split: str | None, columns: tuple[str | None, str | None], shuffle_buffer: int
) -> ImageSource:
    """Open the tar shards that a path, a folder or a glob pattern names, as a stream.

    Raises:
        DataError: There are no such shards, or they are not in the WebDataset layout.
    """
    import tarfile

    import datasets

    if split is not None:
        raise DataError(f"The shards {pattern} have no splits: name the shards of {split!r} in the pattern.")
    shards = find_shards(pattern)
    try:
        builder = datasets.load_dataset_builder("webdataset", data_files={"train": [str(s) for s in shards]})
        dataset = builder.as_streaming_dataset(split="train")
    except (OSError, ValueError, StopIteration, IndexError, tarfile.TarError) as error:
        raise DataError(
            f"The shards {pattern} cannot be read as WebDataset tar files "
            f"(files of one image share their name, as 0001.jpg and 0001.cls): {_line(error)}."
        ) from error
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(f"{shard.name}\0{shard.stat().st_size}\n".encode())
    provenance = {
        "source": Path(pattern).name,
        "kind": "webdataset",
        "split": None,
        "revision": None,
        "fingerprint": f"sha256:{digest.hexdigest()}",
    }
    return open_dataset(dataset, provenance, columns, total=None, shuffle_buffer=shuffle_buffer)


def find_shards(pattern: str) -> list[Path]:
    """Return the tar files that a path, a folder or a glob pattern (braces included) names, sorted.

    Raises:
        DataError: There are none.
    """
    path = Path(pattern).expanduser()
    # Unlike Path.is_dir, this does not raise for a name that is too long for the system.
    if os.path.isdir(path):
        found = sorted(path.glob("*.tar"))
    else:
        found = sorted({Path(match) for part in _expand(str(path)) for match in glob.glob(part)})
    found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"No tar shards match {pattern}: give the path of one, a folder of them, or a pattern.")
    return found


def _expand(pattern: str) -> list[str]:
    """Write out ``{000..012}`` and ``{a,b}``, as WebDataset users give their shards."""
    if pattern.count("{") > MOST_BRACES:
        raise DataError(f"{shown(pattern)} has more than {MOST_BRACES} braces; use * in their place.")
    found = list(itertools.islice(_braces(pattern), MOST_SHARDS + 1))
    if len(found) > MOST_SHARDS:
        raise DataError(f"{shown(pattern)} names more than {MOST_SHARDS} shards; use * in place of long ranges.")
    return found


def _braces(pattern: str) -> Iterator[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    body = match.group(1)
    span = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if span:
        first, last = span.groups()
        if max(map(len, span.groups())) > LONGEST_NUMBER:
            raise DataError(f"{shown(pattern)} has a range with numbers of more than {LONGEST_NUMBER} digits.")
        if int(first) > int(last):
            raise DataError(f"{shown(pattern)} has the empty range {first}..{last}; expected the lower number first.")
        # A generator: the range may be long.
        parts: Iterable[str] = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    else:
        parts = body.split(",")
    for part in parts:
        yield from _braces(pattern[: match.start()] + part + pattern[match.end() :])


def open_dataset(
    dataset: Any,
    provenance: dict[str, Any],
    columns: tuple[str | None, str | None],
    *,
    total: int | None = None,
    shuffle_buffer: int = 1000,
) -> ImageSource:
    """Read a ``datasets.Dataset`` or ``datasets.IterableDataset``, finding its columns.

    Args:
        dataset: The data set.
        provenance: What is known of where it comes from.
        columns: The image column and the label column, None to find them.
        total: The number of examples, where a streaming data set is known to have that many.
        shuffle_buffer: How many examples a streaming data set holds ready to draw from when it is shuffled.

    Raises:
        DataError: The data set is empty, or has no such columns, or more than one that may be meant.
    """
    import datasets

    streaming = isinstance(dataset, datasets.IterableDataset)
    if not streaming:
        dataset = dataset.with_format(None)  # a format set for another purpose would change what rows are
    name = str(provenance["source"])
    if not streaming and len(dataset) == 0:
        raise DataError(f"The data set {name} is empty: give one with images.")
    features = _features(dataset, name)
    image_column = _image_column(features, columns[0], name)
    label_column = _label_column(features, columns[1], image_column, name)
    if isinstance(features.get(image_column), datasets.Image):
        # Decoding is ours: so that all sources are decoded alike, and a bad image can be named.
        dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
    feature = features.get(label_column) if label_column else None
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    fields = _Fields(image_column, label_column, name)
    if streaming:
        return _stream(dataset, fields, names, provenance, total, shuffle_buffer)
    if names is None and feature is not None and getattr(feature, "dtype", "") in ("string", "large_string"):
        names = tuple(sorted(dataset.unique(label_column)))
    provenance.setdefault("fingerprint", dataset._fingerprint)
    return ImageSource(
        records=_Rows(dataset, fields),
        labelled=label_column is not None,
        class_names=names,
        provenance=provenance,
        images=len(dataset),
    )


class _Fields:
    """Which columns of a row are the image and the label."""

    def __init__(self, image: str, label: str | None, source: str) -> None:
        self._image = image
        self.label = label
        self._source = source

    def record(self, row: Mapping[str, Any], index: int) -> Record:
        """Return the record of one row; ``index`` is its number for messages."""
        image = row[self._image]
        label: Any = None
        if self.label is not None:
            label = row[self.label] if self.label in row else _nested(row, self.label)
        return Record(self._name(row, image, index), image, label)

    def _name(self, row: Mapping[str, Any], image: Any, index: int) -> str:
        if "__key__" in row:
            return f"{Path(str(row.get('__url__', self._source))).name}/{row['__key__']}"
        path = image.get("path") if isinstance(image, Mapping) else None
        return f"{self._source}, row {index}" + (f" ({path})" if path else "")


class _Rows(LazySequence[Record]):
    """The rows of a map-style data set as records."""

    def __init__(self, dataset: Any, fields: _Fields) -> None:
        self._dataset = dataset
        self._fields = fields

    def __len__(self) -> int:
        return len(self._dataset)

    def item(self, index: int) -> Record:
        return self._fields.record(self._dataset[index], index)


class _Stream(Iterable[Record]):
    """The examples of a streaming data set as records; ``datasets`` shares them among worker processes."""

    def __init__(self, dataset: Any, fields: _Fields) -> None:
        self._dataset = dataset
        self._fields = fields

    def reshuffle(self, epoch: int) -> None:
        """Draw another order; ``datasets`` lets worker processes that live on know of it."""
        self._dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Record]:
        for index, row in enumerate(self._dataset):
            yield self._fields.record(row, index)


def _stream(
    dataset: Any,
    fields: _Fields,
    names: tuple[str, ...] | None,
    provenance: dict[str, Any],
    total: int | None,
    shuffle_buffer: int,
) -> ImageSource:
    def select(limit: int | None, seed: int | None) -> ImageSource:
        chosen = dataset if seed is None else dataset.shuffle(seed=seed, buffer_size=shuffle_buffer)
        chosen = chosen if limit is None else chosen.take(limit)
        known = total if limit is None else min(limit, total) if total is not None else None
        extra = {} if seed is None else {"shuffle_buffer": shuffle_buffer}
        return _stream(chosen, fields, names, provenance | extra, known, shuffle_buffer)

    provenance.setdefault("fingerprint", None)
    return ImageSource(
        records=_Stream(dataset, fields),
        labelled=fields.label is not None,
        class_names=names,
        provenance=provenance,
        images=total,
        shards=dataset.num_shards,
        select=select,
    )


def _nested(row: Mapping[str, Any], dotted: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        value = value[part]
    return value


def _features(dataset: Any, name: str) -> Mapping[str, Any]:
    """Return the columns and their types; a stream that does not declare them is asked for one example."""
    if dataset.features is not None:
        return dict(dataset.features)
    first = next(iter(dataset), None)
    if first is None:
        raise DataError(f"The data set {name} is empty: give one with images.")
    return dict.fromkeys(first)


def _image_column(features: Mapping[str, Any], asked: str | None, name: str) -> str:
    import datasets

    if asked is not None:
        if asked not in features:
            raise DataError(f"The data set {name} has no column {asked!r}: its columns are {_columns(features)}.")
        return asked
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    candidates = images or [column for column in features if column.casefold() in _IMAGE_NAMES]
    if len(candidates) == 1:
        return candidates[0]
    named = [column for column in _IMAGE_NAMES if column in candidates]
    if named:
        return named[0]
    found = f"more than one ({', '.join(candidates)})" if candidates else "none"
    raise DataError(
        f"The data set {name} has no one image column, found {found} among {_columns(features)}: name it with "
        f"image_column."
    )


def _label_column(features: Mapping[str, Any], asked: str | None, image_column: str, name: str) -> str | None:
    import datasets

    if asked is not None:
        if asked.split(".")[0] not in features and asked not in features:
            raise DataError(f"The data set {name} has no column {asked!r}: its columns are {_columns(features)}.")
        return asked
    classes = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    candidates = classes or [
        column for column in features if column.casefold() in _LABEL_NAMES and column != image_column
    ]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    named = [column for column in _LABEL_NAMES if column in candidates]
    if named:
        return named[0]
    raise DataError(
        f"The data set {name} has several label columns ({', '.join(candidates)}): name one with label_column."
    )


def _columns(features: Mapping[str, Any]) -> str:
    return ", ".join(features)


def _builder(path: str, config: str | None, revision: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset_builder(path, config, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"There is no data set {path} on the Hub, or you have no access to it, and no such folder here: "
            f"check the name, accept its terms on the Hub, or log in with `hf auth login` ({_line(error)})."
        ) from error
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"The data set {path} cannot be fetched from the Hub, and there is no such folder here "
            f"({_line(error)}): check the name and the connection."
        ) from error
    except ValueError as error:
        wanted = f"configuration {config!r}" if config else "no configuration"
        said = " ".join(str(error).split("Example of usage")[0].split())
        raise DataError(
            f"The data set {path} cannot be opened with {wanted} ({said}): name one as {path}:CONFIGURATION."
        ) from error


def _choose_split(builder: Any, asked: str | None, purpose: str, name: str) -> str:
    known = list(builder.info.splits or getattr(builder.config, "data_files", None) or ())
    if asked is not None:
        plain = re.split(r"[\[+]", asked)[0]
        if known and plain not in known:
            raise DataError(f"The data set {name} has no split {asked!r}: its splits are {', '.join(known)}.")
        return asked
    if len(known) == 1:
        return str(known[0])
    for split in _PREFERRED_SPLITS[purpose]:
        if split in known:
            return split
    raise ConfigurationError(
        f"Which split of the data set {name} is meant for {purpose} cannot be told: say it with split "
        f"({', '.join(known) or 'its splits are not declared'})."
    )


def _resolved_revision(builder: Any, split: str) -> str | None:
    """Return the commit of the Hub that the files were taken from, where the builder knows it."""
    files = getattr(builder.config, "data_files", None) or {}
    for file in files.get(re.split(r"[\[+]", split)[0], ()):
        match = _COMMIT.search(str(file))
        if match:
            return match.group(1)
    return None


def _examples(builder: Any, split: str) -> int | None:
    info = (builder.info.splits or {}).get(split)
    return info.num_examples or None if info is not None else None


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
