"""The form of all sources of images before decoding."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One image that is not decoded yet.

    Attributes:
        name: Its name in messages: a path, or a row of a data set.
        image: Anything that :func:`hf_vbp.data.decoding.decode` reads, or prepared pixels ``(channels, h, w)``.
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
        class_names: The class names of the numbers in ``label``, or all the names that ``label`` takes;
            None where they are not known beforehand.
        provenance: A description of the source: ``source``, ``kind``, ``split``, ``revision``, ``fingerprint``.
        images: The number of records; None where it is not known.
        shards: Number of workers that can share a streaming source; None for map style.
        select: For a streaming source, how to shuffle and cut it: ``select(limit, seed)`` gives a new source.
        check: Cheap test of records, by index, before any work starts; raises DataError.
        prepared: Whether the images are prepared pixels, which are neither decoded nor processed.
        missing_labels: Whether it is known that some records of a labelled source have none.
        text_labels: Whether labels are names; ``class_names`` then are all of them, where they are known.
    """

    records: Sequence[Record] | Iterable[Record]
    labelled: bool
    class_names: tuple[str, ...] | None
    provenance: dict[str, Any]
    images: int | None
    shards: int | None = None
    select: Callable[[int | None, int | None], "ImageSource"] | None = None
    check: Callable[[Sequence[int]], None] | None = None
    prepared: bool = False
    missing_labels: bool = False
    text_labels: bool = False

    @property
    def name(self) -> str:
        """Return the name of the source for messages."""
        return str(self.provenance["source"])
