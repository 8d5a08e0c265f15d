"""Training images: opened as for pruning, augmented, and the same in every run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from hf_vbp.data.augmentation import Augmentation
from hf_vbp.data.batches import StreamedImages
from hf_vbp.data.loading import load_images
from hf_vbp.errors import ConfigurationError, DataError

Sample = dict[str, Any]


@dataclass(frozen=True)
class TrainingImages:
    """Images to train on.

    Attributes:
        dataset: Samples, dicts with ``pixel_values`` ``(3, h, w)`` float32 and ``labels``.
        provenance: The description of their source, as JSON.
        images: The number of images; None for a stream of unknown length.
        note: As in :class:`hf_vbp.data.ImageData`.
    """

    dataset: Any
    provenance: dict[str, Any]
    images: int | None
    note: str | None = None


class _Epoch:
    """The number of the epoch, shared with worker processes that persist from one epoch to the next."""

    def __init__(self) -> None:
        self._value = torch.zeros((), dtype=torch.int64)
        self._value.share_memory_()  # type: ignore[no-untyped-call]

    def set(self, epoch: int) -> None:
        self._value.fill_(epoch)

    def get(self) -> int:
        return int(self._value)


class AugmentedImages(Dataset[Sample]):
    """Images with an index, augmented.

    Args:
        dataset: Samples whose pixels :meth:`Augmentation.prepare` of ``augmentation`` made.
        augmentation: The augmentation of each image.
        keep: Whether to keep the prepared images in memory, so that each is decoded once.
    """

    def __init__(self, dataset: Any, augmentation: Augmentation, *, keep: bool = False) -> None:
        self._dataset = dataset
        self._augmentation = augmentation
        self._epoch = _Epoch()
        self._kept: dict[int, Sample] | None = {} if keep else None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        self._augmentation.start(self._epoch.get(), index)
        sample = self._prepared(index)
        return {**sample, "pixel_values": self._augmentation.vary(sample["pixel_values"])}

    def _prepared(self, index: int) -> Sample:
        if self._kept is None:
            return dict(self._dataset[index])
        if index not in self._kept:
            self._kept[index] = self._dataset[index]
        return self._kept[index]


class AugmentedStream(IterableDataset[Sample]):
    """A stream of images, augmented; its length is that of the source, where it is known.

    Args:
        dataset: As for :class:`AugmentedImages`, but a stream.
        augmentation: The augmentation of each image.
        images: The number of images of an epoch.
    """

    def __init__(self, dataset: Any, augmentation: Augmentation, images: int | None) -> None:
        self._dataset = dataset
        self._augmentation = augmentation
        self._images = images
        self._epoch = _Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; a shuffled stream is shuffled again."""
        self._epoch.set(epoch)
        if isinstance(self._dataset, StreamedImages):
            self._dataset.reshuffle(epoch)

    def __len__(self) -> int:
        if self._images is None:
            raise TypeError("The length of this stream is not known.")
        return self._images

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        # The source decodes image n when it is requested, so its draws are set just before.
        samples, position = iter(self._dataset), 0
        while True:
            self._augmentation.start(self._epoch.get(), 0 if worker is None else worker.id, position)
            sample = next(samples, None)
            if sample is None:
                return
            yield {**sample, "pixel_values": self._augmentation.vary(sample["pixel_values"])}
            position += 1


def collate_training(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return a batch of samples as ``Trainer`` makes it.

    Raises:
        DataError: The images have several shapes.
    """
    from transformers import default_data_collator

    shapes = sorted({tuple(sample["pixel_values"].shape) for sample in samples})
    if len(shapes) > 1:
        raise DataError(
            f"The prepared images of a batch have several shapes ({', '.join(map(str, shapes[:3]))}), "
            "and training takes one: set a fixed height and width, or a center crop, in preprocessor_config.json."
        )
    batch: dict[str, Any] = default_data_collator(list(samples))
    return batch


def open_training_images(
    source: Any,
    *,
    augmentation: Augmentation,
    id2label: Mapping[int, str] | Mapping[str, str],
    labelled: bool = True,
    keep: bool = False,
    streaming: bool = False,
    seed: int | None = None,
    **options: Any,
) -> TrainingImages:
    """Open images to train on.

    Args:
        source: The images, as for :func:`hf_vbp.load_images`.
        augmentation: How they are prepared and augmented.
        id2label: The labels of the model, with which the classes are matched by name.
        labelled: Refuse images without labels.
        keep: Keep prepared images in memory.
        streaming: Read a data set of the Hub as a stream, which is always shuffled.
        seed: Seed of the order; 0 for a stream where none is given.
        **options: Other options of :func:`hf_vbp.load_images`.

    Raises:
        DataError: The images cannot be found or read.
        LabelError: Their classes do not match the labels of the model.
        ConfigurationError: ``keep`` is set for a stream, or for an augmentation that resizes at random.
    """
    if keep and not augmentation.can_be_prepared:
        raise ConfigurationError(
            f"keep_images is set, but the augmentation {augmentation.name!r} resizes images at random, so they must "
            'be decoded every time. Use "plain" or "none".'
        )
    opened = load_images(
        source,
        augmentation.prepare,
        id2label=id2label,
        require_labels=labelled,
        purpose="calibration",
        streaming=streaming,
        seed=seed or 0 if streaming else seed,
        **options,
    )
    dataset: Any = opened.loader.dataset
    provenance = {**opened.provenance, **augmentation.describe()}
    provenance.pop("processor", None)
    if not isinstance(dataset, IterableDataset):
        images = AugmentedImages(dataset, augmentation, keep=keep)
        return TrainingImages(images, provenance, opened.images, opened.note)
    if keep:
        raise ConfigurationError("keep_images is set, but the images are a stream; turn streaming and skip off.")
    stream = AugmentedStream(dataset, augmentation, opened.images)
    return TrainingImages(stream, provenance, opened.images, opened.note)
