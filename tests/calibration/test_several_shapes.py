"""Passes over batches of images of several shapes, against one image at a time."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import concatenate

import hf_vbp
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.feeds import DispatchedFeed
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.source import Source
from hf_vbp.data.batches import make_loader
from hf_vbp.data.decoding import UnreadableImageError
from hf_vbp.errors import HfVbpError
from hf_vbp.inputs.mixed_batch import MixedBatch
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import EVERYTHING, METRIC, images
from tests.calibration.test_processes import assert_close
from tests.calibration.test_resume import InterruptedError_, assert_same_bits, interrupted
from tests.calibration.worker import SeveralShapes, StreamedShapes, prepared
from tests.families.running import model_of

COUNT = 13
VALUES = images(COUNT)
LOADERS = {
    "indices": lambda: make_loader(SeveralShapes(VALUES), 5, 0),
    "workers": lambda: make_loader(SeveralShapes(VALUES), 5, 2),
    "stream": lambda: make_loader(StreamedShapes(VALUES), 5, 0),
    "prepared": lambda: prepared(make_loader(SeveralShapes(VALUES), 5, 0)),
    "stream prepared": lambda: prepared(make_loader(StreamedShapes(VALUES), 5, 0), dispatch_batches=False),
    "stream dispatched": lambda: prepared(make_loader(StreamedShapes(VALUES), 5, 0)),
    "given pixels": lambda: hf_vbp.load_images([SeveralShapes(VALUES)[i] for i in range(COUNT)], batch_size=5),
}


def one_by_one(count: int = COUNT) -> list[dict[str, torch.Tensor]]:
    return [{"pixel_values": SeveralShapes(VALUES)[index]["pixel_values"][None]} for index in range(count)]


@pytest.fixture(scope="module")
def model() -> Any:
    """A detector in float64, so that batches differ by float64 rounding only."""
    return copy.deepcopy(model_of("YolosForObjectDetection")).double()


@pytest.fixture(scope="module")
def singly(model: Any) -> ActivationStatistics:
    return collect_statistics(model, one_by_one(), EVERYTHING)


@pytest.mark.parametrize("kind", LOADERS)
def test_statistics_are_those_of_one_image_at_a_time(kind: str, model: Any, singly: ActivationStatistics) -> None:
    reported: list[tuple[int, int | None]] = []
    options: Any = {"progress": lambda done, total: reported.append((done, total))}
    assert_close(collect_statistics(model, LOADERS[kind](), EVERYTHING, **options), singly, 1e-10)
    assert [done for done, _ in reported] == sorted({done for done, _ in reported})
    assert reported[-1][0] == COUNT


@pytest.mark.parametrize("kind", ["indices", "stream"])
def test_every_image_has_its_own_number(kind: str) -> None:
    found: list[int] = []
    hashes: list[int] = []

    def work(batch: Any) -> None:
        assert len({tuple(image.shape) for image in batch.inputs["pixel_values"]}) == 1
        found.extend(batch.indices)
        hashes.extend(batch.hashes)

    Source.of(LOADERS[kind]()).open(11).walk(work)
    assert found == list(range(11))
    expected: list[int] = []
    Source.of(one_by_one()).open(11).walk(lambda batch: expected.extend(batch.hashes))
    assert hashes == expected


@pytest.mark.parametrize("batches", [[dict, MixedBatch], [MixedBatch, MixedBatch], [UnreadableImageError]])
@pytest.mark.parametrize("step", ["look", "batches"])
def test_what_one_process_cannot_send_ends_the_launch(batches: list[Any], step: str) -> None:
    """An error of this package would be exchanged, while the other processes wait for a batch."""
    image = {"pixel_values": torch.zeros(1, 3, 32, 32)}
    made = {dict: image, MixedBatch: MixedBatch([image, {"pixel_values": torch.zeros(1, 3, 32, 16)}])}

    class Dispatcher(list):  # type: ignore[type-arg]
        gradient_state = SimpleNamespace(dataloader_references=[])

        def __iter__(self) -> Any:
            if self[0] is UnreadableImageError:
                raise UnreadableImageError("3.png cannot be read.")
            # As the process does that reads the batches of two.
            yield concatenate([made[kind] for kind in list.__iter__(self)])

    feed = DispatchedFeed(Dispatcher(batches), Processes(0, 2, torch.device("cpu")))
    with pytest.raises(RuntimeError, match=r"Process 0 cannot send .*before accelerator\.prepare") as caught:
        next(feed.batches()) if step == "batches" else feed.look()
    assert not isinstance(caught.value, HfVbpError)


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("kind", ["indices", "stream"])
def test_a_limit_ends_within_a_batch(kind: str, limit: int, model: Any) -> None:
    expected = collect_statistics(model, one_by_one(limit), EVERYTHING)
    assert_close(collect_statistics(model, LOADERS[kind](), EVERYTHING, limit=limit), expected, 1e-10)


@pytest.mark.parametrize("kind", ["indices", "stream"])
@pytest.mark.parametrize("after", range(2, 9))
def test_an_interrupted_pass_continues_to_the_same_bits(kind: str, after: int, model: Any, tmp_path: Path) -> None:
    """Wherever it ends, also between two shapes of one batch."""
    expected = collect_statistics(model, LOADERS[kind](), METRIC)
    options: dict[str, Any] = {"resume": tmp_path / "state", "resume_every": 1}
    with pytest.raises(InterruptedError_):
        collect_statistics(model, LOADERS[kind](), METRIC, progress=interrupted(after), **options)
    assert_same_bits(collect_statistics(model, LOADERS[kind](), METRIC, **options), expected)
