"""From records to the batches of a ``DataLoader``."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from hf_vbp.data.decoding import BadImage, BadImageLog, StreamedLabelError, UnreadableImageError, decode, reason
from hf_vbp.data.labels import label_ids
from hf_vbp.data.processing import Transform
from hf_vbp.data.records import Record
from hf_vbp.errors import LabelError

Sample = dict[str, Any]
Batch = dict[str, torch.Tensor]


class LabelTable:
    """Turns the labels of records into ids of the model, by the names of the classes.

    Args:
        id2label: The labels of the model.
        class_names: The classes that numbers stand for, or all the names that there are; None when not known
            beforehand, then names are matched as they come and numbers are taken as ids of the model.
        source: What to call the data set in an error.

    Raises:
        LabelError: A class does not match.
    """

    def __init__(
        self, id2label: Mapping[int, str] | Mapping[str, str], class_names: Sequence[str] | None, source: str
    ) -> None:
        self._id2label = id2label
        self._source = source
        ids = label_ids(class_names, id2label) if class_names is not None else []
        self._numbered = class_names is not None
        self._by_number = ids
        self._by_name = dict(zip(class_names or (), ids, strict=True))

    def __call__(self, label: int | str | None, name: str) -> int:
        """Return the id in the model of the label of the image called ``name``."""
        if isinstance(label, bytes):
            label = label.decode(errors="replace")
        if isinstance(label, str):
            return self._named(label.strip())
        if isinstance(label, bool) or not hasattr(label, "__index__"):
            raise StreamedLabelError(f"{name} has the label {label!r}, which is neither a number nor a name.")
        number = int(label)  # type: ignore[arg-type]
        known = len(self._by_number) if self._numbered else len(self._id2label)
        if not 0 <= number < known:
            raise StreamedLabelError(
                f"{name} has the label {number}, but there are {known} classes, from 0: data sets mark a split "
                f"without labels like this; choose another split, or another label_column."
            )
        return self._by_number[number] if self._numbered else number

    def _named(self, label: str) -> int:
        if label not in self._by_name:
            try:
                self._by_name[label] = label_ids([label], self._id2label)[0]
            except LabelError as error:
                raise StreamedLabelError(f"In {self._source}: {error}") from error
        return self._by_name[label]


class Encoder:
    """Decodes one record and prepares it for the model."""

    def __init__(self, transform: Transform, labels: LabelTable | None) -> None:
        self._transform = transform
        self._labels = labels

    def __call__(self, record: Record) -> Sample:
        """Return ``pixel_values`` ``(3, h, w)`` float32, and the id of the label where there are labels.

        Raises:
            UnreadableImageError: The image cannot be decoded.
            LabelError: The model has no such label.
        """
        sample: Sample = {"pixel_values": self._transform(decode(record.image, record.name))}
        if self._labels is not None:
            sample["labels"] = self._labels(record.label, record.name)
        return sample


class MapImages(Dataset[Sample]):
    """Records that can be taken in any order; a bad image is an error."""

    def __init__(self, records: Sequence[Record], encode: Encoder) -> None:
        self._records = records
        self._encode = encode

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        return self._encode(self._records[index])


class StreamedImages(IterableDataset[Sample]):
    """Records in the order in which they come; bad images are left out and noted when there is a log.

    Args:
        records: The records.
        encode: What is done with each.
        log: Where bad images are noted; None makes them errors.
        shared: Whether ``records`` shares itself among worker processes, as ``datasets`` does; otherwise each
            worker takes every n-th record.
    """

    def __init__(self, records: Iterable[Record], encode: Encoder, log: BadImageLog | None, *, shared: bool) -> None:
        self._records = records
        self._encode = encode
        self._log = log
        self._shared = shared

    def reshuffle(self, epoch: int) -> None:
        """Draw another order for the passes from now on, always the same for the same epoch.

        Streams of ``datasets`` do so, those that were not shuffled by reading their shards in another order; other
        records stay in theirs.

        It is not called ``set_epoch``, which accelerate calls by itself before every pass over a loader that it
        prepared: images that are evaluated again must be the same, and with a limit another order is other images.

        Args:
            epoch: The number of the pass, from 0.
        """
        reshuffle = getattr(self._records, "reshuffle", None)
        if reshuffle is not None:
            reshuffle(epoch)

    def __iter__(self) -> Iterator[Sample]:
        for record in self._mine():
            try:
                yield self._encode(record)
            except UnreadableImageError as error:
                if self._log is None:
                    raise
                self._log.add(BadImage(record.name, reason(error.__cause__)))

    def _mine(self) -> Iterator[Record]:
        worker = get_worker_info()
        if worker is None or self._shared:
            yield from self._records
        elif isinstance(self._records, Sequence):
            # By index, so that a worker does not even read what is not its own.
            for index in range(worker.id, len(self._records), worker.num_workers):
                yield self._records[index]
        else:
            for index, record in enumerate(self._records):
                if index % worker.num_workers == worker.id:
                    yield record


class Reordered(Sequence[Record]):
    """Some of the records of a sequence, in a given order."""

    def __init__(self, records: Sequence[Record], order: Sequence[int]) -> None:
        self._records = records
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        return self._records[self._order[index]]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples: ``pixel_values`` ``(b, 3, h, w)`` float32 and, where they have them, ``labels`` ``(b,)``."""
    batch = {"pixel_values": torch.stack([torch.as_tensor(sample["pixel_values"]) for sample in samples])}
    if "labels" in samples[0]:
        batch["labels"] = torch.as_tensor([int(sample["labels"]) for sample in samples], dtype=torch.int64)
    return batch


def make_loader(
    dataset: Dataset[Sample],
    batch_size: int,
    num_workers: int,
    collate_fn: Callable[[Sequence[Sample]], Batch] = collate,
) -> "DataLoader[Sample]":
    """Return a loader that keeps the order and the last, smaller batch."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_fn, shuffle=False)
