"""A look at the first batch changes nothing that a pass reads afterwards."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.source import Source
from hf_vbp.errors import DataError
from tests.calibration.helpers import DIAGONAL, FULL, images, in_batches
from tests.calibration.test_resume import InterruptedError_, assert_same_bits, interrupted

IMAGES = 23


class Augmented(Dataset):  # type: ignore[type-arg]
    """Images that are changed by random numbers of torch, numpy and Python."""

    def __init__(self) -> None:
        self.values = images(IMAGES)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        shift = torch.rand(1).item() + float(np.random.rand()) + random.random()
        return {"pixel_values": self.values[index] + shift}


class ShuffledStream(IterableDataset):  # type: ignore[type-arg]
    """A stream in an order that is drawn when it is opened; counts how often that happens."""

    def __init__(self) -> None:
        self.opened = 0
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        self.opened += 1
        values = images(IMAGES)
        for index in torch.randperm(len(values)):
            self.read += 1
            yield {"pixel_values": values[index]}


class Once:
    """A sampler that deals out its indices once, also over several iterations."""

    def __init__(self) -> None:
        self.indices = iter(range(IMAGES))

    def __iter__(self) -> Iterator[int]:
        return self.indices


def one_by_one(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"pixel_values": sample["pixel_values"][None]}


def own_generator() -> Any:
    return DataLoader(Augmented(), 4, sampler=RandomSampler(Augmented(), generator=torch.Generator().manual_seed(3)))


def generator_of_list() -> Any:
    return (batch for batch in in_batches(images(IMAGES), 4))


SOURCES: dict[str, Callable[[], Any]] = {
    "list": lambda: in_batches(images(IMAGES), 4),
    "iterator": generator_of_list,
    "in order": lambda: DataLoader(Augmented(), 4),
    "shuffled": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "workers": lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2),
    "own generator": own_generator,
    "loader's generator": lambda: DataLoader(Augmented(), 4, shuffle=True, generator=torch.Generator().manual_seed(4)),
    "subset": lambda: DataLoader(Augmented(), 4, sampler=SubsetRandomSampler(range(5, IMAGES))),
    "sampler with state": lambda: DataLoader(Augmented(), 4, sampler=Once()),  # type: ignore[arg-type]
    "stream": lambda: DataLoader(ShuffledStream(), 4),
    "bare stream": lambda: DataLoader(ShuffledStream(), None, collate_fn=one_by_one),
}


def seed() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def state() -> list[Any]:
    return [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]


@pytest.mark.parametrize("name", SOURCES)
def test_the_statistics_are_the_same_bit_for_bit_as_without_a_look(name: str, vit: Any) -> None:
    found = []
    # A prepared model is verified already, so nothing is looked at.
    for model in (prepare(vit), vit):
        seed()
        statistics = hf_vbp.collect_statistics(model, SOURCES[name](), FULL)
        found.append((statistics, state()))
    (expected, after), (looked, after_looked) = found
    assert expected.images == looked.images
    assert_same_bits(expected, looked)
    assert after == after_looked


def test_a_second_pass_draws_as_it_did_without_a_look(batches: Any) -> None:
    """The features of a backbone are compared with a bank, which is the first of two passes over the images."""
    from tests.conftest import make_model

    found = []
    for first in (True, False):
        model = make_model("vit-backbone")
        seed()
        loader = DataLoader(ShuffledStream(), 4)
        found.append(hf_vbp.collect_statistics(prepare(model) if first else model, loader))
    assert_same_bits(*found)


def test_a_stream_is_opened_once_and_read_once(vit: Any) -> None:
    stream = ShuffledStream()
    hf_vbp.prune(vit, DataLoader(stream, 4), hf_vbp.VBPConfig.preset("paper", ratio=0.5))
    assert (stream.opened, stream.read) == (1, IMAGES)


def shuffled(values: Any) -> Any:
    torch.manual_seed(5)
    return DataLoader(values, 4, shuffle=True)


def test_a_pass_that_is_resumed_looks_too(vit: Any, tmp_path: Path) -> None:
    values = [{"pixel_values": image} for image in images(IMAGES)]
    expected = hf_vbp.collect_statistics(prepare(vit), shuffled(values), FULL)
    options: dict[str, Any] = {"resume": tmp_path / "state", "resume_every": 1}
    for stop in (2, 3):
        with pytest.raises(InterruptedError_):
            hf_vbp.collect_statistics(vit, shuffled(values), FULL, progress=interrupted(stop), **options)
    assert_same_bits(hf_vbp.collect_statistics(vit, shuffled(values), FULL, **options), expected)


def test_the_look_takes_one_image_and_keeps_no_more_in_memory() -> None:
    source = Source(in_batches(images(IMAGES), 8), Processes.alone())
    first = source.first()
    assert first is not None
    assert first["pixel_values"].shape == (1, 3, 32, 32)
    assert first["pixel_values"].untyped_storage().nbytes() == 3 * 32 * 32 * 4
    assert source.first() is first


@pytest.mark.parametrize("data", [[], iter([]), DataLoader([])])  # type: ignore[arg-type]
def test_no_images(data: Any, vit: Any) -> None:
    assert Source(data, Processes.alone()).first() is None
    with pytest.raises(DataError, match="gave no images"):
        hf_vbp.collect_statistics(vit, data, DIAGONAL)


def test_what_is_no_batch_is_refused_at_once(vit: Any) -> None:
    with pytest.raises(DataError, match="must be a dict with pixel_values, got a list"):
        hf_vbp.prune(vit, [[1.0, 2.0]], hf_vbp.VBPConfig(ratio=0.5))
