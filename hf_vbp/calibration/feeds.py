"""Which images of a data loader this process takes, and which number each has in the whole set.

Every way in here gives each image of the data set to exactly one process, once. The repeated samples that a
distributed loader adds to make its batches even are either never asked for or told apart by their position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard, IterableDatasetShard
from torch.utils.data import DataLoader, IterableDataset

from hf_vbp.calibration.processes import Processes
from hf_vbp.errors import ConfigurationError, DataError, StatisticsError
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
        pixel_values: ``(images, channels, height, width)``, nothing in it repeated.
        indices: Number of each image in the whole set, the same for every number of processes.
        hashes: A 64-bit hash of each image.
        order: Digest of everything that was read up to here, to tell two orders apart.
    """

    pixel_values: torch.Tensor
    indices: range
    hashes: list[int]
    order: str


@dataclass
class Feed:
    """The batches of one process.

    Attributes:
        dataloader: Where they come from.
        processes: The processes that share them.
        limit: Images to take of the whole set, or ``None``.
    """

    dataloader: Any
    processes: Processes
    limit: int | None = None

    # Whether every process reads the whole order, so that their digests must agree at the end.
    shared_order = True
    final_order = ""
    # Whether all processes must ask for every batch together, because the loader itself communicates.
    lockstep = False

    @property
    def total(self) -> int | None:
        """Number of images of all processes, where it is known beforehand."""
        return self.limit

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        """Return the batches of this process after the first ``skip`` of them.

        Raises:
            StatisticsError: The order of what was skipped is not the one whose digest is ``order``.
        """
        raise NotImplementedError


def check_order(found: str, expected: str | None) -> None:
    """Refuse to resume a pass over images that come in another order than before.

    Raises:
        StatisticsError: The digests differ.
    """
    if expected is not None and found != expected:
        raise StatisticsError(
            "the images come in another order than in the pass that was interrupted; seed the shuffle as before, or "
            "delete the saved state to start over"
        )


class _ReadingFeed(Feed):
    """Reads every batch in every process, and takes every ``count``-th: exact for whatever can be iterated."""

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        digest = hashlib.sha256()
        start, taken = 0, 0
        for number, batch in enumerate(self.dataloader):
            local = self._local(batch, start, digest)
            del batch
            start += len(local.hashes)
            if number % self.processes.count == self.processes.index:
                taken += 1
                if taken == skip:
                    check_order(local.order, order)
                if taken > skip:
                    yield local
            del local
            if self.limit is not None and start >= self.limit:
                break
        self.final_order = digest.hexdigest()

    def _local(self, batch: Any, start: int, digest: Any) -> LocalBatch:
        values = pixel_values_of(batch)
        if self.limit is not None:
            values = values[: self.limit - start]
        hashes = hash_images(values)
        digest.update(repr(hashes).encode())
        return LocalBatch(values, range(start, start + len(values)), hashes, digest.hexdigest())


class _DispatchedFeed(Feed):
    """Batches that process 0 reads and sends (``dispatch_batches``); the last one is filled up with repeats.

    The dispatcher gives every process an equal, contiguous share of what process 0 read, and tells the number
    that it really read when it hands out the last share: what lies beyond is a repeat.
    """

    shared_order = False
    lockstep = True

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        digest = hashlib.sha256()
        start = 0
        with _iterating(self.dataloader) as batches:
            for taken, batch in enumerate(batches, start=1):
                values = pixel_values_of(batch)
                share = len(values)
                read = self.dataloader.remainder if self.dataloader.end_of_dataloader else share * self.processes.count
                first = start + share * self.processes.index
                stop = start + read if self.limit is None else min(start + read, self.limit)
                values = values[: max(0, stop - first)]
                hashes = hash_images(values)
                digest.update(repr(hashes).encode())
                if taken == skip:
                    check_order(digest.hexdigest(), order)
                if taken > skip:
                    local = LocalBatch(values, range(first, first + len(values)), hashes, digest.hexdigest())
                    del batch, values
                    yield local
                    del local
                start += read
                if self.limit is not None and start >= self.limit:
                    return


class _OwnShardFeed(Feed):
    """Batches of a data set that was split into shards, one for each process: nothing is repeated.

    Images are numbered in turn, the first of every process, the second of every process, and so on.
    """

    shared_order = False

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        digest = hashlib.sha256()
        done, step = 0, self.processes.count
        with _iterating(self.dataloader) as batches:
            for taken, batch in enumerate(batches, start=1):
                values = pixel_values_of(batch)
                first = done * step + self.processes.index
                done += len(values)
                stop = done * step if self.limit is None else min(done * step, self.limit)
                indices = range(first, stop, step)
                values = values[: len(indices)]
                hashes = hash_images(values)
                digest.update(repr(hashes).encode())
                if taken == skip:
                    check_order(digest.hexdigest(), order)
                if taken > skip:
                    local = LocalBatch(values, indices, hashes, digest.hexdigest())
                    del batch, values
                    yield local
                    del local
                if self.limit is not None and done * step >= self.limit:
                    return


def open_feed(dataloader: Any, processes: Processes, limit: int | None) -> Feed:
    """Return the right feed for ``dataloader``, whatever it is and whoever prepared it.

    Args:
        dataloader: A torch ``DataLoader``, prepared by Accelerate or not, over a map-style or an iterable data
            set; or any other iterable of dicts with ``pixel_values``, the same in every process.
        processes: The processes that share the pass.
        limit: Images to take, of the whole set.

    Raises:
        ConfigurationError: The loader cannot be iterated, or was prepared in a way that hides which images it
            repeats.
    """
    from hf_vbp.calibration.map_style_feeds import map_feed

    if not isinstance(dataloader, Iterable):
        raise ConfigurationError(
            f"expected a data loader or another iterable of dicts with pixel_values, got {type(dataloader).__name__}"
        )
    if not isinstance(dataloader, DataLoader):
        return _ReadingFeed(dataloader, processes, limit)
    if processes.several and isinstance(dataloader, DataLoaderDispatcher):
        return _DispatchedFeed(dataloader, processes, limit)
    if isinstance(dataloader.dataset, IterableDatasetShard):
        return _ReadingFeed(_unsharded(dataloader), processes, limit)
    if isinstance(dataloader.dataset, IterableDataset):
        own_shard = processes.several and isinstance(dataloader, DataLoaderShard)
        return (_OwnShardFeed if own_shard else _ReadingFeed)(dataloader, processes, limit)
    if type(dataloader) is DataLoader or isinstance(dataloader, DataLoaderShard):
        return map_feed(dataloader, processes, limit) or _ReadingFeed(dataloader, processes, limit)
    if processes.several and hasattr(dataloader, "gradient_state"):
        raise ConfigurationError(
            f"{type(dataloader).__name__} is a loader that Accelerate made in a way that hides which images it "
            "repeats; pass the data loader as it was before accelerator.prepare"
        )
    return _ReadingFeed(dataloader, processes, limit)


def pixel_values_of(batch: Any) -> torch.Tensor:
    """Return the images of a batch.

    Raises:
        DataError: The batch has no ``pixel_values`` or they are not a batch of images.
    """
    if not isinstance(batch, Mapping) or "pixel_values" not in batch:
        found = f"has {sorted(map(str, batch))}" if isinstance(batch, Mapping) else f"is a {type(batch).__name__}"
        raise DataError(f"every batch must be a dict with pixel_values, and one {found}")
    values = batch["pixel_values"]
    if isinstance(values, Sequence):
        values = torch.stack([torch.as_tensor(value) for value in values])
    values = torch.as_tensor(values)
    if values.dim() < 2 or not values.is_floating_point():
        raise DataError(
            f"pixel_values must be floating and (images, channels, height, width), and are {values.dtype} of shape "
            f"{tuple(values.shape)}; let the image processor of the model make them"
        )
    return values


def loader_settings(dataloader: DataLoader[Any]) -> dict[str, Any]:
    """Return how ``dataloader`` loads (workers, collation, pinning), to build another on the same data set."""
    return {name: getattr(dataloader, name) for name in LOADER_SETTINGS}


def _unsharded(dataloader: DataLoader[Any]) -> DataLoader[Any]:
    shard: Any = dataloader.dataset
    size = shard.batch_size
    return DataLoader(shard.dataset, batch_size=size, drop_last=shard.drop_last, **loader_settings(dataloader))


@contextmanager
def _iterating(dataloader: Any) -> Iterator[Iterator[Any]]:
    """Iterate over a loader of Accelerate, and take it off Accelerate's books also when it is left early."""
    try:
        yield iter(dataloader)
    finally:
        if dataloader in dataloader.gradient_state.dataloader_references:
            dataloader.end()
