"""Turn records into the batches of a ``DataLoader``."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hf_vbp.data.decoding import BadImage, BadImageLog, UnreadableImageError, decode, reason
from hf_vbp.data.label_table import LabelTable
from hf_vbp.data.processing import Transform
from hf_vbp.data.records import Record
from hf_vbp.errors import DataError
from hf_vbp.inputs.mixed_batch import ImageLoader, MixedBatch

Sample = dict[str, Any]
Batch = dict[str, torch.Tensor]


class Encoder:
    """Decodes one record and prepares it for the model.

    Args:
        transform: Prepares a decoded image; None for images that are prepared pixels already.
        table: Maps labels to ids of the model; None for images without labels.
    """

    def __init__(self, transform: Transform | None, table: LabelTable | None) -> None:
        self.transform = transform
        self.table = table

    def __call__(self, record: Record) -> Sample:
        """Return ``pixel_values`` ``(3, h, w)`` float32, and the id of the label where there are labels.

        A model with other inputs gets them, see :meth:`hf_vbp.data.processing.Transform.inputs`.

        Raises:
            UnreadableImageError: The image cannot be decoded.
            LabelError: The model has no such label.
            DataError: The pixels are not prepared as they should be.
        """
        sample: Sample
        if self.transform is None:
            sample = {"pixel_values": prepared_pixels(record.image, record.name)}
        else:
            sample = {**self.transform.inputs(decode(record.image, record.name))}
        if self.table is not None:
            sample["labels"] = self.table(record.label, record.name)
        return sample


def prepared_pixels(values: Any, name: str) -> torch.Tensor:
    """Return the pixels of an image that was prepared for a model already, ``(channels, h, w)`` float32.

    Raises:
        DataError: They have another shape, or are no numbers.
    """
    try:
        pixels = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The pixel_values of {name} are {type(values).__name__}, not numbers (channels, height, width): name the "
            f"column of the images with image_column."
        ) from error
    if pixels.ndim != 3:
        raise DataError(
            f"The pixel_values of {name} have the shape {tuple(pixels.shape)}; expected (channels, height, width)."
        )
    return pixels


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
    """Records in the order of their source; bad images are skipped and recorded when there is a log.

    Args:
        records: The records.
        encode: Decodes and prepares each.
        log: Records bad images; None makes them errors.
        shared: Whether ``records`` divides itself among worker processes, as ``datasets`` does; otherwise each
            worker takes every n-th record.
    """

    def __init__(self, records: Iterable[Record], encode: Encoder, log: BadImageLog | None, *, shared: bool) -> None:
        self._records = records
        self._encode = encode
        self._log = log
        self._shared = shared

    def reshuffle(self, epoch: int) -> None:
        """Draw another order for the following passes, always the same for the same epoch.

        Streams of ``datasets`` do so, unshuffled ones by reading their shards in another order; other records keep
        their order.

        The name is not ``set_epoch``, which accelerate calls before every pass over a loader that it prepared:
        images that are evaluated again must be the same, and with a limit another order gives other images.

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
            # By index, so that a worker reads only its own records.
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


def collate(samples: Sequence[Sample]) -> Batch | MixedBatch:
    """Stack samples: ``pixel_values`` ``(b, 3, h, w)`` float32 and, where they have them, ``labels`` ``(b,)``.

    Samples of several shapes, as image processors that keep the aspect ratio make them, give a batch for each run of
    consecutive samples of one shape: the order is that of the samples, and nothing is padded.
    """
    batches = [_stacked(list(run)) for _, run in groupby(samples, key=_shapes)]
    return batches[0] if len(batches) == 1 else MixedBatch(batches)


def _shapes(sample: Sample) -> list[tuple[int, ...]]:
    return [tuple(torch.as_tensor(value).shape) for name, value in sample.items() if name != "labels"]


def _stacked(samples: Sequence[Sample]) -> Batch:
    names = [name for name in samples[0] if name != "labels"]
    batch = {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in names}
    if "labels" in samples[0]:
        batch["labels"] = torch.as_tensor([int(sample["labels"]) for sample in samples], dtype=torch.int64)
    return batch


def make_loader(
    dataset: Dataset[Sample],
    batch_size: int,
    num_workers: int,
    collate_fn: Callable[[Sequence[Sample]], Batch | MixedBatch] = collate,
) -> ImageLoader:
    """Return a loader that keeps the order and the last, smaller batch."""
    return ImageLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_fn, shuffle=False)
