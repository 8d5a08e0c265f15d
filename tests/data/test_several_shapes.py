"""Batches of images whose image processor keeps their shape."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_vbp
from hf_vbp.data.batches import collate
from hf_vbp.errors import DataError
from hf_vbp.inputs.fit import first_item
from hf_vbp.inputs.mixed_batch import MixedBatch, each_batch
from tests.data.helpers import CLASSES, labels, numbers, picture

# Width and height.
SIZES = [(8, 4), (8, 4), (4, 8), (8, 4), (4, 8), (4, 8), (4, 8), (6, 6), (8, 4), (4, 8), (4, 8), (8, 4)]
ID2LABEL = dict(enumerate(CLASSES))


def pixels(image: Any) -> torch.Tensor:
    """The pixels of an image in its own size, from 0 to 1."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Picture i has the number i and the class ``i // 4``."""
    for number, size in enumerate(SIZES):
        (tmp_path / CLASSES[number // 4]).mkdir(exist_ok=True)
        picture(number, size).save(tmp_path / CLASSES[number // 4] / f"{number % 4}.png")
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"on_bad_image": "skip"}, {"seed": 3}, {"limit": 7}])
@pytest.mark.parametrize("batch_size", [3, 5, 32])
def test_order_and_labels_are_those_of_single_images(folder: Path, batch_size: int, options: dict[str, Any]) -> None:
    options = {"id2label": ID2LABEL, **options}
    singly = hf_vbp.load_images(folder, pixels, batch_size=1, **{**options, "num_workers": 0})
    images = hf_vbp.load_images(folder, pixels, batch_size=batch_size, **options)
    assert numbers(images) == numbers(singly)
    assert labels(images) == labels(singly) == [number // 4 for number in numbers(images)]
    for batch in images:
        assert 1 <= len(batch["pixel_values"]) == len(batch["labels"]) <= batch_size


def test_a_batch_ends_where_the_shape_changes(folder: Path) -> None:
    images = hf_vbp.load_images(folder, pixels, batch_size=6)
    assert [len(batch["pixel_values"]) for batch in images.loader] == [2, 1, 1, 2, 1, 1, 1, 2, 1]
    assert len(images) == 2


def test_images_of_one_shape_are_one_dict() -> None:
    samples = [{"pixel_values": torch.full((3, 4, 4), float(number)), "labels": number} for number in range(3)]
    batch = collate(samples)
    assert isinstance(batch, dict)
    assert batch["pixel_values"].shape == (3, 3, 4, 4)
    assert batch["labels"].tolist() == [0, 1, 2]


def test_a_check_reads_one_image(folder: Path) -> None:
    assert first_item(hf_vbp.load_images(folder, pixels))["pixel_values"].shape == (1, 3, 4, 8)


def mixed() -> MixedBatch:
    batch = collate([{"pixel_values": torch.ones(3, 4, side)} for side in (4, 4, 6)])
    assert isinstance(batch, MixedBatch)
    return batch


def test_a_batch_of_several_shapes_is_sent_between_processes_and_devices() -> None:
    for batch in (pickle.loads(pickle.dumps(mixed())), mixed().to("cpu", non_blocking=True)):
        assert [part["pixel_values"].shape for part in batch.parts] == [(2, 3, 4, 4), (1, 3, 4, 6)]
    assert [part["pixel_values"].shape for part in mixed().to("meta").parts] == [(2, 3, 4, 4), (1, 3, 4, 6)]
    assert mixed().to("meta").parts[0]["pixel_values"].is_meta


def test_it_is_not_taken_for_one_of_one_shape() -> None:
    with pytest.raises(DataError, match=r"several shapes, so there is no single 'pixel_values': iterate over"):
        mixed()["pixel_values"]
    assert [len(part["pixel_values"]) for part in each_batch([mixed(), {"pixel_values": [1]}])] == [2, 1, 1]
