"""The images of a pass, whose first batch can be looked at before the pass without changing what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from hf_vbp.calibration.feed import Feed, images_in
from hf_vbp.calibration.open_feed import open_feed
from hf_vbp.calibration.processes import Processes
from hf_vbp.inputs.batch import first_image


class Source:
    """Images and the processes that share them.

    :meth:`first` gives the first image, on which the structure of a model is verified. Batches of a list and items
    of a map-style data set are taken by index, with the state of all random number generators restored. Anything else
    is opened, and the first pass continues from what was opened: it is read once, in the same order.

    Args:
        data: The result of :func:`hf_vbp.load_images`, a ``DataLoader``, or any iterable of batches.
        processes: The processes that share the images.

    Attributes:
        loader: The batches.
        provenance: The description of the images, where ``data`` has one.
    """

    def __init__(self, data: Any, processes: Processes) -> None:
        self.loader: Any = getattr(data, "loader", data)
        self.provenance: Mapping[str, Any] = getattr(data, "provenance", {})
        self.processes = processes
        self._looked = False
        self._first: dict[str, Any] | None = None
        self._held: Iterator[Any] | None = None

    @classmethod
    def of(cls, data: Iterable[Any] | Source, accelerator: Any | None = None) -> Source:
        """Return the images of ``data``, shared by the processes of ``accelerator`` or of the environment."""
        return data if isinstance(data, Source) else cls(data, Processes.of(accelerator))

    @property
    def read_once(self) -> bool:
        """Whether the images can be read only once."""
        return isinstance(self.loader, Iterator)

    def first(self) -> dict[str, Any] | None:
        """Return a batch with the first image, the same in every process; None where there are no images.

        All processes must call this together.

        Raises:
            DataError: The first batch is no dict of prepared images.
            ConfigurationError: The loader cannot be iterated.
        """
        if not self._looked:
            self._first, self._looked = self._look(), True
        return self._first

    def _look(self) -> dict[str, Any] | None:
        with self.processes.together():
            batch, self._held = open_feed(self.loader, self.processes, None).look()
            own = None if batch is None or not images_in(batch) else _copied(first_image(batch))
        if not self.processes.several:
            return own
        # Every process must find the same, also one that has no images of its own.
        sent = None if own is None else {key: v.cpu() if isinstance(v, Tensor) else v for key, v in own.items()}
        return next((found for found in self.processes.gather(sent) if found is not None), None)

    def open(self, limit: int | None) -> Feed:
        """Return a feed over the images for one pass.

        Args:
            limit: Number of images to take of the whole set, or None for all.

        Raises:
            ConfigurationError: The loader cannot be iterated, or hides which images it repeats.
        """
        with self.processes.together():
            feed = open_feed(self.loader, self.processes, limit)
        if self._held is not None:
            feed.held, self._held = self._held, None
        return feed


def _copied(batch: Mapping[str, Any]) -> dict[str, Any]:
    # A part of a tensor would keep all of it in memory.
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
