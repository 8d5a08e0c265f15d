"""A sequence whose items are made when they are read, one at a time."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """Base class of sequences that define their length and how one item is made; slices are lazy too."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """Make the item at ``index``, from 0 and below the length."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        places = range(len(self))[index]
        return _Part(self, places) if isinstance(places, range) else self.item(places)


class _Part(LazySequence[Item]):
    def __init__(self, whole: LazySequence[Item], places: range) -> None:
        self._whole, self._places = whole, places

    def __len__(self) -> int:
        return len(self._places)

    def item(self, index: int) -> Item:
        return self._whole.item(self._places[index])
