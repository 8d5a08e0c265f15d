"""What every source of images is turned into before it is decoded."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One image that is not decoded yet.

    Attributes:
        name: What to call it in messages: a path within the folder, or a row of a data set.
        image: Whatever :func:`hf_vbp.data.decoding.decode` reads.
        label: The number or the name of its class in the data set, None where there is none.
    """

    name: str
    image: Any
    label: int | str | None


@dataclass
class ImageSource:
    """A data set, found and opened but with no image decoded.

    Attributes:
        records: A sequence (map style) or an iterable (streaming) of :class:`Record`.
        labelled: Whether the records have labels.
        class_names: The classes that numbers in ``label`` stand for, or all the names that ``label`` takes;
            None where they are not known beforehand.
        provenance: What is known of the source: ``source``, ``kind``, ``split``, ``revision``, ``fingerprint``.
        images: How many records there are, None where that is not known.
        shards: How many workers can share a streaming source; None for map style.
        select: For a streaming source, how to shuffle and cut it: ``select(limit, seed)`` gives a new source.
        check: Cheap test of records, by index, before any work starts; raises DataError.
    """

    records: Sequence[Record] | Iterable[Record]
    labelled: bool
    class_names: tuple[str, ...] | None
    provenance: dict[str, Any]
    images: int | None
    shards: int | None = None
    select: Callable[[int | None, int | None], "ImageSource"] | None = None
    check: Callable[[Sequence[int]], None] | None = field(default=None)

    @property
    def name(self) -> str:
        """Return the name of the source for messages."""
        return str(self.provenance["source"])
