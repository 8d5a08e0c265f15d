"""Batches of images that the image processor prepared with several shapes."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from hf_vbp.errors import DataError


class MixedBatch:
    """A batch of images of several shapes, as one batch for each run of consecutive images of one shape.

    A collation returns it, and :class:`ImageLoader` and :func:`each_batch` give its parts. It is not a mapping, and no
    list, so that nothing can take it for a batch of one shape.

    Args:
        parts: The batches, in the order of the images.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self.parts = tuple(parts)

    def __getitem__(self, key: Any) -> Any:
        raise DataError(
            f"This batch holds images of several shapes, so there is no single {key!r}: iterate over the loader of "
            "hf_vbp.load_images itself, which gives one batch for each shape, rather than over a loader made of it."
        )

    def pin_memory(self) -> "MixedBatch":
        """Return the batch in pinned memory, as a ``DataLoader`` with ``pin_memory`` requests it."""
        return MixedBatch([_each_tensor(part, lambda value: value.pin_memory()) for part in self.parts])

    def to(self, device: Any, **options: Any) -> "MixedBatch":
        """Return the batch on a device, as a loader of Accelerate requests it."""
        return MixedBatch([_each_tensor(part, lambda value: value.to(device, **options)) for part in self.parts])


def _each_tensor(batch: Mapping[str, Any], change: Any) -> dict[str, Any]:
    return {key: change(value) if isinstance(value, Tensor) else value for key, value in batch.items()}


def parts_of(batch: Any) -> tuple[Any, ...]:
    """Return the batches of one shape that a batch of a loader consists of."""
    return batch.parts if isinstance(batch, MixedBatch) else (batch,)


def each_batch(loader: Iterable[Any]) -> Iterator[Any]:
    """Iterate over the batches of a loader, each of one shape, in the order of the images."""
    for batch in loader:
        parts = deque(parts_of(batch))
        # A batch is not needed while the next one is loaded.
        del batch
        while parts:
            yield parts.popleft()


class ImageLoader(DataLoader[Any]):
    """A ``DataLoader`` whose batches have one shape each; its length counts those with several shapes as one."""

    def __iter__(self) -> Any:
        return each_batch(super().__iter__())
