"""Images that were prepared already: any iterable of dicts with ``pixel_values``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset

from hf_vbp.data.batches import Sample
from hf_vbp.errors import DataError

_LABEL_KEYS = ("labels", "label")


class PreparedImages(IterableDataset[Sample]):
    """Dicts with ``pixel_values`` ``(3, h, w)`` or ``(b, 3, h, w)``, one image at a time.

    Args:
        items: The dicts. A generator gives only one pass.
        limit: The maximum number of images.
        labelled: Whether to pass on ``labels`` (or ``label``).
    """

    def __init__(self, items: Iterable[Mapping[str, Any]], limit: int | None, *, labelled: bool) -> None:
        self._items = items
        self._limit = limit
        self._labelled = labelled

    def __iter__(self) -> Iterator[Sample]:
        return islice(self._samples(), self._limit)

    def _samples(self) -> Iterator[Sample]:
        for position, item in enumerate(self._items):
            pixels, labels = _read(item, position)
            if self._labelled and labels is None:
                raise DataError(f"Item {position} has no labels: every dict needs pixel_values and labels.")
            if self._labelled and labels is not None and labels.is_floating_point():
                raise DataError(f"Item {position} has labels of {labels.dtype}; expected class ids, int64.")
            for row, image in enumerate(pixels):
                sample: Sample = {"pixel_values": image}
                if self._labelled and labels is not None:
                    sample["labels"] = int(labels[row])
                yield sample


def _read(item: Any, position: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return pixel values ``(b, 3, h, w)`` and labels ``(b,)`` of one dict."""
    if not isinstance(item, Mapping) or "pixel_values" not in item:
        found = f"a dict with {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise DataError(
            f"Item {position} is {found or 'an empty dict'}, not a dict with pixel_values: give such dicts."
        )
    pixels = torch.as_tensor(item["pixel_values"])
    if pixels.ndim not in (3, 4):
        raise DataError(
            f"Item {position} has pixel_values of shape {tuple(pixels.shape)}; expected (3, height, width) or "
            f"(batch, 3, height, width)."
        )
    key = next((name for name in _LABEL_KEYS if item.get(name) is not None), None)
    labels = None if key is None else torch.as_tensor(item[key]).reshape(-1)
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    if labels is not None and len(labels) != len(pixels):
        raise DataError(f"Item {position} has {len(pixels)} images but {len(labels)} labels; expected one for each.")
    return pixels, labels


def count_images(items: Iterable[Any]) -> int | None:
    """Return the number of images in a sequence of dicts; None for an iterable without a length."""
    if not isinstance(items, Sequence):
        return None
    return sum(len(_read(item, position)[0]) for position, item in enumerate(items))
