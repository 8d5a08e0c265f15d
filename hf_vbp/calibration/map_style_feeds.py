"""Feeds of map-style data sets: each process requests its own index batches, so that nothing is ever repeated."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Sampler

from hf_vbp.calibration.feed import (
    Feed,
    LocalBatch,
    check_order,
    hash_inputs,
    images_in,
    labels_of,
    loader_settings,
    look_by_iteration,
)
from hf_vbp.calibration.processes import Processes
from hf_vbp.errors import ConfigurationError
from hf_vbp.inputs.mixed_batch import parts_of

# Items of a data set that a look takes: more than one, since a collation may drop bad images.
_LOOKED_AT = 4


def open_map_style_feed(dataloader: DataLoader[Any], processes: Processes, limit: int | None) -> Feed | None:
    """Return the feed of a loader over a map-style data set, or ``None`` when it has no batch sampler.

    Raises:
        ConfigurationError: Accelerate wrapped the sampler in an unknown way.
    """
    batches: Any = dataloader.batch_sampler
    if batches is None and isinstance(dataloader.sampler, BatchSampler):
        batches = dataloader.sampler
    split = False
    while isinstance(batches, BatchSamplerShard):
        split = split or batches.split_batches
        batches = batches.batch_sampler
    if batches is None:
        return None
    sampler = getattr(batches, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        return DistributedSamplerFeed(dataloader, processes, limit, batches, split)
    if (
        processes.several
        and isinstance(dataloader, DataLoaderShard)
        and type(batches).__module__.startswith("accelerate")
    ):
        raise ConfigurationError(
            f"Accelerate wrapped the sampler in a {type(batches).__name__}, which hides the order of the images. Pass "
            "the data loader from before accelerator.prepare."
        )
    return MapStyleFeed(dataloader, processes, limit, batches, split)


class MapStyleFeed(Feed):
    """Iterates over the index batches of all processes and loads only those of this one.

    Args:
        dataloader: The loader, whose data set and settings are used.
        processes: The processes that share the images.
        limit: Number of images to take of the whole set.
        index_batches: The batch sampler, without Accelerate's wrappers.
        split: Whether each batch is divided among the processes, instead of dealing whole batches in turn.
    """

    def __init__(
        self, dataloader: DataLoader[Any], processes: Processes, limit: int | None, index_batches: Any, split: bool
    ) -> None:
        super().__init__(dataloader, processes, limit)
        self.index_batches = index_batches
        self.split = split and processes.several

    @property
    def total(self) -> int | None:
        """Number of images of all processes, where the sampler has a length."""
        sampler = getattr(self.index_batches, "sampler", None)
        if sampler is None or not hasattr(sampler, "__len__"):
            return self.limit
        images: int = len(sampler)
        return images if self.limit is None else min(self.limit, images)

    def look(self) -> tuple[Any, Iterator[Any] | None]:
        """Return a batch with a few items of the data set; see :meth:`Feed.look`.

        They are those of the first index batch, except that a shuffle is drawn from another seed. No random number
        generator is changed.
        """
        sampler = getattr(self.index_batches, "sampler", None)
        held: Iterator[Any] | None = None
        if hasattr(sampler, "generator"):
            with _random_state_kept(), _generator(sampler, torch.Generator().manual_seed(0)):
                chosen = next(iter(self.index_batches), None)
        else:
            chosen, held = look_by_iteration(self.index_batches)
        return None if chosen is None else self._load(list(chosen)[:_LOOKED_AT]), held

    def _load(self, indices: list[Any]) -> Any:
        # Workers stay the only ones that open the files of the data set.
        workers = min(1, self.dataloader.num_workers)
        loader = self._loader([indices], num_workers=workers, generator=None, pin_memory=False)
        with _random_state_kept():
            return next((parts_of(batch)[0] for batch in loader), None)

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        """Return the batches of this process; skipped ones are not loaded. See :meth:`Feed.batches`."""
        chosen = _ChosenBatches(self._index_batches(), skip, order)
        loader = self._loader(chosen)
        with _same_shuffle(getattr(self.index_batches, "sampler", None), self.processes):
            for batch in loader:
                requested, digest = chosen.queue.popleft()
                start, parts = requested.start, deque(parts_of(batch))
                del batch
                while parts:
                    part = parts.popleft()
                    images = images_in(part)
                    # Fewer or more than requested: the collation dropped bad images or cut several crops.
                    indices = range(start, start + images * requested.step, requested.step)
                    start = indices.stop
                    labels = labels_of(part, images)
                    local = LocalBatch(dict(part), indices, hash_inputs(part), digest, labels, last=not parts)
                    del part
                    yield local
                    del local
        self.final_order = chosen.final_order

    def _loader(self, chosen: Any, **changes: Any) -> DataLoader[Any]:
        settings = {**loader_settings(self.dataloader), **changes}
        if self.dataloader.batch_sampler is None:
            return DataLoader(self.dataloader.dataset, sampler=chosen, batch_size=None, **settings)
        return DataLoader(self.dataloader.dataset, batch_sampler=chosen, **settings)

    def _index_batches(self) -> Iterator[tuple[list[Any], list[Any], range]]:
        """Yield every whole index batch, the part of it for this process, and the numbers of that part."""
        start = 0
        for number, batch in enumerate(self.opened(self.index_batches)):
            whole = list(batch) if self.limit is None else list(batch)[: self.limit - start]
            offset, stop = self._part(number, len(whole))
            yield whole, whole[offset:stop], range(start + offset, start + stop)
            start += len(whole)
            if self.limit is not None and start >= self.limit:
                return

    def _part(self, number: int, size: int) -> tuple[int, int]:
        if not self.split:
            return (0, size) if number % self.processes.count == self.processes.index else (0, 0)
        share = -(-size // self.processes.count)
        offset = min(size, share * self.processes.index)
        return offset, min(size, offset + share)


class DistributedSamplerFeed(MapStyleFeed):
    """A loader with torch's ``DistributedSampler``, which deals the images out in turn and repeats the first few.

    Item i of process r has the position ``i * processes + r`` in the padded order; positions beyond the length of the
    data set are repeats.
    """

    @property
    def shared_order(self) -> bool:
        """False: each process sees its own positions only."""
        return False

    @property
    def total(self) -> int | None:
        """Number of images of all processes."""
        return self._stop()

    def _stop(self) -> int:
        images: int = len(self.dataloader.dataset)
        return images if self.limit is None else min(images, self.limit)

    def _index_batches(self) -> Iterator[tuple[list[Any], list[Any], range]]:
        sampler = self.index_batches.sampler
        step, rank = sampler.num_replicas, sampler.rank
        if (step, rank) != (self.processes.count, self.processes.index):
            raise ConfigurationError(
                f"The DistributedSampler was made for process {rank} of {step}, but this is process "
                f"{self.processes.index} of {self.processes.count}. Pass a loader with an ordinary sampler."
            )
        done = 0
        for batch in self.opened(self.index_batches):
            whole = list(batch)
            first = done * step + rank
            done += len(whole)
            indices = range(first, min(done * step, self._stop()), step)
            yield whole, whole[: len(indices)], indices


class _ChosenBatches(Sampler[list[Any]]):
    """The index batches to load, with a queue of the image numbers and the order digest of each."""

    def __init__(self, walk: Iterable[tuple[list[Any], list[Any], range]], skip: int, order: str | None) -> None:
        self.walk, self.skip, self.expected = walk, skip, order
        self.queue: deque[tuple[range, str]] = deque()
        self.final_order = ""

    def __iter__(self) -> Iterator[list[Any]]:
        order = hashlib.sha256()
        taken = 0
        for whole, part, indices in self.walk:
            order.update(repr(whole).encode())
            self.final_order = order.hexdigest()
            if not part:
                continue
            taken += 1
            if taken == self.skip:
                check_order(self.final_order, self.expected)
            if taken > self.skip:
                self.queue.append((indices, self.final_order))
                yield part


@contextmanager
def _same_shuffle(sampler: Any, processes: Processes) -> Iterator[None]:
    """Make every process draw the order that the first one draws, which is also that of a single process."""
    if not hasattr(sampler, "generator"):
        yield
        return
    given = sampler.generator
    if given is None:
        seed = int(torch.empty((), dtype=torch.int64).random_())
        given = torch.Generator().manual_seed(processes.first(seed))
    else:
        given.set_state(processes.first(given.get_state()))
    with _generator(sampler, given):
        yield


@contextmanager
def _generator(sampler: Any, generator: torch.Generator) -> Iterator[None]:
    """Let a sampler draw from another generator."""
    given, sampler.generator = sampler.generator, generator
    try:
        yield
    finally:
        sampler.generator = given


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the global random number generators of torch (on the CPU), numpy and Python."""
    python, arrays = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        numpy.random.set_state(arrays)
