"""Feeds of loaders whose batches cannot be chosen by index: streams, lists, and loaders of Accelerate."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hf_vbp.calibration.feed import Feed, LocalBatch, check_order, images_in, local_batch, look_by_iteration
from hf_vbp.errors import HfVbpError
from hf_vbp.inputs.mixed_batch import MixedBatch, each_batch, parts_of


class ReadingFeed(Feed):
    """Reads every batch in every process and takes every ``count``-th: exact for anything that can be iterated."""

    def look(self) -> tuple[Any, Iterator[Any] | None]:
        """Return the first batch; see :meth:`Feed.look`. That of a sequence is taken by index."""
        if isinstance(self.dataloader, Sequence):
            return (parts_of(self.dataloader[0])[0] if len(self.dataloader) else None), None
        return look_by_iteration(each_batch(self.dataloader))

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        """Return the batches of this process; see :meth:`Feed.batches`."""
        digest = hashlib.sha256()
        start, taken = 0, 0
        for number, batch in enumerate(each_batch(self.opened(self.dataloader))):
            images = images_in(batch)
            if self.limit is not None:
                images = min(images, self.limit - start)
            local = local_batch(batch, images, range(start, start + images), digest)
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


class OwnBatchesFeed(Feed):
    """Base class for loaders that give each process its own batches."""

    @property
    def shared_order(self) -> bool:
        """False: each process sees its own images only."""
        return False

    def look(self) -> tuple[Any, Iterator[Any] | None]:
        """Return the first batch of this process; see :meth:`Feed.look`."""
        return look_by_iteration(each_batch(self.dataloader))

    def batches(self, skip: int = 0, order: str | None = None) -> Iterator[LocalBatch]:
        """Return the batches of this process; see :meth:`Feed.batches`."""
        digest = hashlib.sha256()
        done = 0
        with _iterating(self.dataloader, self.opened) as batches:
            for taken, batch in enumerate(each_batch(batches), start=1):
                indices, done = self._share(images_in(batch), done)
                local = local_batch(batch, len(indices), indices, digest)
                del batch
                if taken == skip:
                    check_order(local.order, order)
                if taken > skip:
                    yield local
                del local
                if self.limit is not None and done >= self.limit:
                    return

    @abstractmethod
    def _share(self, size: int, done: int) -> tuple[range, int]:
        """Return the numbers of the images to count, and the images that all processes have read afterwards.

        Args:
            size: Images of the batch that this process received.
            done: Images that all processes had read before it.
        """

    def _stop(self, stop: int) -> int:
        return stop if self.limit is None else min(stop, self.limit)


class DispatchedFeed(OwnBatchesFeed):
    """Batches that process 0 reads and sends (``dispatch_batches``); the last one is filled up with repeats.

    The dispatcher gives every process an equal, contiguous share of the images that process 0 read. With the last
    share it reports the number that was really read: images beyond it are repeats.
    """

    @property
    def lockstep(self) -> bool:
        """True: every batch is a collective operation."""
        return True

    def look(self) -> tuple[Any, Iterator[Any] | None]:
        """Return the first batch of this process; see :meth:`Feed.look`."""
        return look_by_iteration(each_batch(_ending_the_launch(self.dataloader)))

    def opened(self, source: Any) -> Iterator[Any]:
        """Return an iterator; see :meth:`Feed.opened`."""
        return _ending_the_launch(super().opened(source))

    def _share(self, size: int, done: int) -> tuple[range, int]:
        loader: Any = self.dataloader
        read = int(loader.remainder) if loader.end_of_dataloader else size * self.processes.count
        first = done + size * self.processes.index
        count = min(size, max(0, self._stop(done + read) - first))
        return range(first, first + count), done + read


class OwnShardFeed(OwnBatchesFeed):
    """Batches of a data set that was split into shards, one for each process; nothing is repeated.

    Images are numbered in turn: the first of every process, then the second of every process, and so on.
    """

    def _share(self, size: int, done: int) -> tuple[range, int]:
        step = self.processes.count
        stop = done + size * step
        return range(done + self.processes.index, self._stop(stop), step), stop


def _ending_the_launch(batches: Iterable[Any]) -> Iterator[Any]:
    """Iterate over batches that process 0 reads for all.

    The others wait for its next batch, not for its error: an error of this package, which is exchanged, would leave
    them waiting.

    Raises:
        RuntimeError: Process 0 cannot read a batch, or batches of several shapes cannot be joined.
    """
    try:
        yield from batches
    except HfVbpError as error:
        raise RuntimeError(
            f"Process 0 cannot send the next images to the others: {error} A launch ends here, since they wait. Pass "
            "the data loader from before accelerator.prepare, which every process reads."
        ) from error
    except TypeError as error:
        if MixedBatch.__name__ not in str(error):
            raise
        raise RuntimeError(
            "Process 0 cannot send images of several shapes to the others. Pass the data loader from before "
            "accelerator.prepare, which every process reads."
        ) from error


@contextmanager
def _iterating(dataloader: Any, opened: Callable[[Any], Iterator[Any]]) -> Iterator[Iterator[Any]]:
    """Iterate over a loader of Accelerate, and unregister it also when the iteration ends early."""
    try:
        yield opened(dataloader)
    finally:
        if dataloader in dataloader.gradient_state.dataloader_references:
            dataloader.end()
