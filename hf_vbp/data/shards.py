"""Images in WebDataset tar shards: files of one image follow each other and share their name, as 1.jpg and 1.cls."""

import glob
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.data.columns import IMAGE_NAMES, LABEL_NAMES
from hf_vbp.data.dataset import Fields, Stream
from hf_vbp.data.decoding import DamagedShard, printable
from hf_vbp.data.records import ImageSource
from hf_vbp.data.scan import EXTENSIONS
from hf_vbp.errors import DataError

_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = frozenset(("cls", "cls2", "index", "inx", "id"))
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error)
# A pattern such as {0..300000000} would fill the memory before the first file is searched for.
_MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Layout:
    """The files of an image that are read, by their extension.

    Attributes:
        image: The extension of the images; None for any, where an image has one image file only.
        label: The extension of the labels, or ``extension.field`` of a JSON file; None for no labels.
    """

    image: str | None
    label: str | None


def open_shards(
    pattern: str, *, split: str | None, columns: tuple[str | None, str | None], shuffle_buffer: int
) -> ImageSource:
    """Open the tar shards that a path, a folder or a glob pattern names, as a stream.

    Args:
        pattern: The shards.
        split: Must be None: shards have no splits.
        columns: The extensions of the images and of the labels, None to find them.
        shuffle_buffer: Number of images in the shuffle buffer of the stream.

    Raises:
        DataError: There are no such shards, or they are not in the WebDataset layout.
    """
    import datasets

    if split is not None:
        raise DataError(f"The shards {pattern} have no splits: name the shards of {split!r} in the pattern.")
    shards = find_shards(pattern)
    layout = _layout(shards, pattern, columns)
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(os.fsencode(f"{shard.name}\0{shard.stat().st_size}\n"))
    name = printable(Path(pattern).name)
    provenance = {
        "source": name,
        "kind": "webdataset",
        "split": None,
        "revision": None,
        "fingerprint": f"sha256:{digest.hexdigest()}",
    }
    arguments = {"shards": [str(shard) for shard in shards], "image": layout.image, "label": layout.label}
    dataset = datasets.IterableDataset.from_generator(read_shards, gen_kwargs=arguments)
    fields = Fields("image", None if layout.label is None else "label", name)
    return Stream(dataset, fields, provenance, shuffle_buffer).source(None)


def find_shards(pattern: str) -> list[Path]:
    """Return the tar files that a path, a folder or a glob pattern (braces included) names, sorted.

    Raises:
        DataError: There are none, or the pattern matches too many names.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.suffix == ".tar" and not entry.name.startswith("."))
    elif path.is_file():
        found = [path]
    else:
        found = sorted({Path(match) for part in expand_braces(str(path)) for match in _matches(part)})
    found = [file for file in found if file.is_file()]
    if not found:
        raise DataError(f"No tar shards match {pattern}: give the path of one, a folder of them, or a pattern.")
    return found


def _matches(pattern: str) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    # Brackets in the names of folders that exist are not patterns.
    folder = next((parent for parent in Path(pattern).parents if parent.is_dir()), Path())
    rest = Path(pattern).relative_to(folder)
    return glob.glob(os.path.join(glob.escape(str(folder)), str(rest)))


def expand_braces(pattern: str) -> list[str]:
    """Write out ``{000..012}`` and ``{a,b}``, as WebDataset users name their shards.

    Raises:
        DataError: The pattern has more than 100,000 names.
    """
    waiting, names = [pattern], []
    while waiting:
        text = waiting.pop()
        found = _BRACES.search(text)
        if found is None:
            names.append(text)
            continue
        # Every pending text gives at least one name.
        parts = _brace_parts(found.group(1), _MOST_SHARDS - len(names) - len(waiting))
        if parts is None:
            raise DataError(
                f"The pattern {pattern} gives more than {_MOST_SHARDS:,} shards: name fewer, or give their folder."
            )
        waiting.extend(text[: found.start()] + part + text[found.end() :] for part in reversed(parts))
    return names


def _brace_parts(body: str, most: int) -> list[str] | None:
    """Return the alternatives of a pair of braces; None where there are more than ``most``."""
    span = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", body)
    if span is None:
        parts = body.split(",")
        return parts if len(parts) <= most else None
    first, last = (int(end) for end in span.groups())
    if last - first >= most:
        return None
    return [str(number).zfill(len(span.group(1))) for number in range(first, last + 1)]


def read_shards(shards: Sequence[str], image: str | None, label: str | None) -> Iterator[dict[str, Any]]:
    """Yield the images of shards in their order.

    Args:
        shards: Paths of tar files.
        image: The extension of the images; None for any image file.
        label: The extension of the labels, or ``extension.field`` of a JSON file; None for no labels.

    Yields:
        Rows with ``image``, the bytes of a file or a :class:`DamagedShard`; ``label``; ``__key__``, the name of the
        image within its shard; and ``__url__``, the shard.
    """

    def is_read(extension: str) -> bool:
        return _is_image(extension) if image is None else extension == image

    def is_label(extension: str) -> bool:
        return label is not None and (extension == label or extension == label.partition(".")[0])

    for shard in shards:
        try:
            for key, files in samples(shard, lambda extension: is_read(extension) or is_label(extension)):
                images = [extension for extension in files if is_read(extension)]
                chosen = min(images, key=_preference) if images else None
                yield {
                    "image": None if chosen is None else files[chosen],
                    "label": None if label is None else _label(files, label),
                    "__key__": key,
                    "__url__": shard,
                }
        except _DAMAGE as error:
            yield {"image": DamagedShard(one_line(error)), "label": None, "__key__": "", "__url__": shard}


def samples(shard: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of one shard: their key, and the wanted files by extension.

    Raises:
        OSError: It is not a tar file, or is damaged; ``tarfile.TarError`` likewise.
    """
    with tarfile.open(shard, "r:*") as tar:
        current, files = "", dict[str, bytes]()
        for member in tar:
            found = _MEMBER.fullmatch(member.name)
            if found is None or not member.isreg() or member.issparse():
                continue
            key, extension = found.groups()
            if key != current and current:
                yield printable(current), files
                files = {}
            current = key
            content = tar.extractfile(member) if wanted(extension.lower()) else None
            files[extension.lower()] = b"" if content is None else content.read()
        if current:
            yield printable(current), files
        # tarfile accepts a file that is cut between two members as complete.
        file: Any = tar.fileobj
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut short, or damaged in the middle")


def _layout(shards: Sequence[Path], pattern: str, columns: tuple[str | None, str | None]) -> Layout:
    """Find the files that make an image from the first sample with one."""
    fields, failure = _first_fields(shards)
    asked_image, asked_label = columns
    images = [name for name in fields if _is_image(name)]
    if not images and asked_image is None:
        why = failure or f"its first images have only files like {', '.join(fields) or 'none'}"
        raise DataError(
            f"The shards {pattern} cannot be read as WebDataset tar files ({why}): files of one image must follow "
            f"each other and share their name, as 0001.jpg and 0001.cls."
        )
    for name in columns:
        if name is not None and name not in fields and name.partition(".")[0] not in fields:
            raise DataError(f"The shards {pattern} have no column {name!r}: their files are {', '.join(fields)}.")
    usual = [name for name in images if name in IMAGE_NAMES]
    if asked_image is None and len(images) > 1 and not usual:
        raise DataError(
            f"The shards {pattern} have several files for each image ({', '.join(images)}): name one with "
            f"image_column."
        )
    image = asked_image or (min(images, key=_preference) if len(images) > 1 else None)
    label = asked_label or next((name for name in LABEL_NAMES if name in fields), None)
    return Layout(image, label)


def _first_fields(shards: Sequence[Path]) -> tuple[list[str], str]:
    """Return the extensions of the first sample with an image, and the first reason for which a shard gave none."""
    fields: list[str] = []
    failure = ""
    for shard in shards:
        try:
            for _, files in samples(str(shard), lambda extension: False):
                fields = fields or list(files)
                if any(map(_is_image, files)):
                    return list(files), ""
        except _DAMAGE as error:
            failure = failure or one_line(error)
    return fields, failure


def _is_image(extension: str) -> bool:
    return f".{extension.rpartition('.')[2]}" in EXTENSIONS


def _preference(extension: str) -> tuple[int, str]:
    return (IMAGE_NAMES.index(extension) if extension in IMAGE_NAMES else len(IMAGE_NAMES), extension)


def _label(files: dict[str, bytes], label: str) -> Any:
    """Return the label of a sample: a number, a text, or None where there is none that can be read."""
    extension, _, field = (label, "", "") if label in files else label.partition(".")
    if extension not in files:
        return None
    text = files[extension].decode(errors="replace").strip()
    if extension.rpartition(".")[2] in ("json", "jsn"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        for part in field.split(".") if field else ():
            value = value.get(part) if isinstance(value, dict) else None
        return value
    return int(text) if extension in _NUMBERS and re.fullmatch(r"-?\d{1,18}", text) else text
