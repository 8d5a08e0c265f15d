"""The batches that one process counts: the base class of all feeds.

Every feed gives each image of the data set to exactly one process, once. Distributed loaders repeat samples to make
their batches even; a feed never requests these repeats, or drops them by their position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from hf_vbp.calibration.processes import Processes
from hf_vbp.errors import DataError, HfVbpError, StatisticsError
from hf_vbp.inputs.batch import count_images, main_input, patches_by_image, stacked, take_images
from hf_vbp.statistics.fingerprints import hash_images

LOADER_SETTINGS = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
)


@dataclass(frozen=True, eq=False)
class LocalBatch:
    """The part of one batch that this process counts; it may be empty.

    Attributes:
        inputs: What the processor made for these images, without repeated ones.
        indices: Number of each image in the whole set, the same for every number of processes.
        hashes: A 64-bit hash of each image.
        order: Digest of everything that was read so far; two different orders have different digests.
        labels: ``(images,)`` where the batch has labels, otherwise ``None``.
        last: Whether it ends a batch of the loader; False where images of another shape of the same batch follow.
    """

    inputs: dict[str, Any]
    indices: range
    hashes: list[int]
    order: str
    labels: Any = None
    last: bool = True


class Feed(ABC):
    """The batches of one process.

    Args:
        dataloader: The source of the batches.
        processes: The processes that share them.
        limit: Number of images to take of the whole set, or ``None`` for all.

    Attributes:
        held: The iterator of an earlier :meth:`look`, with which the next pass starts.
    """

    def __init__(self, dataloader: Any, processes: Processes, limit: int | None = None) -> None:
        self.dataloader, self.processes, self.limit = dataloader, processes, limit
        self.final_order = ""
        self.held: Iterator[Any] | None = None

    @abstractmethod
    def look(self) -> tuple[Any, Iterator[Any] | None]:
        """Return the first batch, or a part of it, and the iterator that was opened for it, which starts with it.

        The batch is None where there are none. The iterator is None where nothing was opened that a pass continues.
        """

    def opened(self, source: Any) -> Iterator[Any]:
        """Return the iterator that a look opened, the first time, otherwise a new one over ``source``."""
        held, self.held = self.held, None
        return iter(source) if held is None else held

    @property
    def shared_order(self) -> bool:
        """Whether every process reads the whole order, so that all must have the same digest at the end."""
        return True

    @property
    def lockstep(self) -> bool:
        """Whether all processes must request every batch together, because the loader communicates."""
        return False

    @property
    def total(self) -> int | None:
        """Number of images of all processes, where it is known beforehand."""
        return self.limit

    @abstractmethod
    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        """Return the batches of this process after the first ``skip`` of them.

        Raises:
            StatisticsError: The digest of the skipped batches is not ``order``.
        """

    def walk(self, work: Callable[[LocalBatch], None], *, skip: int = 0, order: str | None = None) -> None:
        """Call ``work`` with every batch; a failure in one process is raised in all of them.

        Args:
            work: Processes one batch.
            skip: Number of batches of this process to skip.
            order: Digest of the skipped batches.

        Raises:
            StatisticsError: The processes read different images, or images in different orders.
        """
        with self.processes.together():
            self._walk(work, skip, order)
        orders = set(self.processes.gather(self.final_order)) if self.shared_order else set()
        if len(orders) > 1:
            raise StatisticsError(
                "The processes read different images, or the same images in different orders, so that some may be "
                "counted twice. Give every process the same data, and seed the shuffle."
            )

    def _walk(self, work: Callable[[LocalBatch], None], skip: int, order: str | None) -> None:
        failure: HfVbpError | None = None
        for batch in self.batches(skip, order):
            if failure is None:
                try:
                    work(batch)
                except HfVbpError as error:
                    failure = error
            # The images are not needed while the next ones are loaded.
            del batch
            # In lockstep the other processes wait for this one at every batch, so it keeps requesting them.
            if failure is not None and not self.lockstep:
                break
        if failure is not None:
            raise failure


def look_by_iteration(source: Any) -> tuple[Any, Iterator[Any]]:
    """Return the first item of an iterable, None where there is none, and an iterator over all items."""
    iterator = iter(source)
    first = list(islice(iterator, 1))
    return (first[0] if first else None), chain(first, iterator)


def local_batch(batch: Any, images: int, indices: range, digest: Any) -> LocalBatch:
    """Return the images of ``batch`` that a process counts, and add them to ``digest``.

    Args:
        batch: The batch that the loader gave.
        images: How many of its images are counted, the first ones of the batch.
        indices: Number of each of these images in the whole set.
        digest: The hash object of the order, which is updated.
    """
    inputs = take_images(batch, 0, images)
    hashes = hash_inputs(inputs)
    digest.update(repr(hashes).encode())
    return LocalBatch(inputs, indices, hashes, digest.hexdigest(), labels_of(batch, images))


def hash_inputs(inputs: Mapping[str, Any]) -> list[int]:
    """Return a 64-bit hash of each image of a batch."""
    values = torch.as_tensor(stacked(inputs[main_input(inputs)]))
    patches = patches_by_image(inputs)
    if patches is None:
        return hash_images(values)
    return [number for image in torch.split(values, patches) for number in hash_images(image[None])]


def check_order(found: str, expected: str | None) -> None:
    """Refuse to resume a pass over images that come in a different order than before.

    Raises:
        StatisticsError: The digests differ.
    """
    if expected is not None and found != expected:
        raise StatisticsError(
            "The images come in another order or in other batches than in the interrupted pass. Use the same batch "
            "size and the same seed of the shuffle, or delete the saved state to start over."
        )


def images_in(batch: Any) -> int:
    """Return the number of images in a batch.

    Raises:
        DataError: The batch is no dict with images, or they are not prepared.
    """
    if not isinstance(batch, Mapping):
        raise DataError(f"Every batch must be a dict with pixel_values, got a {type(batch).__name__}.")
    key = main_input(batch)
    values = stacked(batch[key])
    values = torch.as_tensor(values)
    if values.dim() < 2 or not (values.is_floating_point() or key == "input_ids"):
        raise DataError(
            f"Expected floating-point {key} (images, channels, height, width), got {values.dtype} of shape "
            f"{tuple(values.shape)}. Create them with the image processor of the model."
        )
    return count_images(batch)


def labels_of(batch: Mapping[str, Any], count: int) -> Any:
    """Return the labels of the first ``count`` images of a batch, or ``None`` where it has none."""
    labels = batch.get("labels")
    return None if labels is None else labels[:count]


def loader_settings(dataloader: DataLoader[Any]) -> dict[str, Any]:
    """Return how ``dataloader`` loads (workers, collation, pinning), to build another on the same data set."""
    return {name: getattr(dataloader, name) for name in LOADER_SETTINGS}
