"""Images that were prepared already."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hf_vbp.data.loading import load_images
from hf_vbp.errors import DataError
from tests.data.helpers import ID2LABEL, labels, numbers, prepared


def test_single_images_and_batches_are_batched_again() -> None:
    single = load_images(prepared(5), id2label=ID2LABEL, batch_size=2)
    assert (numbers(single), labels(single), single.images) == ([0, 1, 2, 3, 4], [0, 1, 2, 0, 1], 5)
    assert [len(batch["labels"]) for batch in single.loader] == [2, 2, 1]
    batches = [{"pixel_values": torch.zeros(3, 3, 8, 8), "labels": torch.arange(3)}] * 2
    again = load_images(batches, id2label=ID2LABEL, batch_size=4, limit=5)
    assert [batch["pixel_values"].shape[0] for batch in again.loader] == [4, 1]
    assert labels(again) == [0, 1, 2, 0, 1]


def test_a_generator_gives_one_pass() -> None:
    data = load_images(item for item in prepared(3))
    assert data.images is None
    assert numbers(data) == [0, 1, 2]


def test_a_loader_is_kept_as_it_is() -> None:
    loader: Any = DataLoader(prepared(4), batch_size=2)  # type: ignore[arg-type]
    assert load_images(loader).loader is loader
    assert numbers(load_images(loader, limit=3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([3], "Item 0 is int, not a dict with pixel_values"),
        ([{"image": 1}], "Item 0 is a dict with image, not"),
        ([{"pixel_values": torch.zeros(8, 8)}], r"shape \(8, 8\)"),
        ([{"pixel_values": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(3)}], "2 images but 3 labels"),
    ],
)
def test_items_that_are_not_prepared_images(items: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(items)


def test_labels_that_are_needed_but_missing() -> None:
    data = load_images([{"pixel_values": torch.zeros(3, 8, 8)}], id2label=ID2LABEL)
    with pytest.raises(DataError, match="Item 0 has no labels"):
        list(data.loader)


def test_labels_that_are_not_class_ids() -> None:
    items = [{"pixel_values": torch.zeros(3, 8, 8), "label": 0.7}]
    with pytest.raises(DataError, match=r"Item 0 has labels of torch.float32; expected class ids"):
        list(load_images(items, id2label=ID2LABEL).loader)
    assert len(list(load_images(items).loader)) == 1
