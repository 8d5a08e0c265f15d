"""Real processes, started by ``accelerate launch``, against one process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.saliency import collect_saliency
from hf_vbp.config.requirements import Requirements
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import DIAGONAL, EVERYTHING, FULL, images, in_batches, kept
from tests.calibration.worker import SeveralShapes
from tests.conftest import make_model
from tests.families.running import model_of

WORKER = Path(__file__).with_name("worker.py")
DETECTOR = "YolosForObjectDetection"
IMAGES = 53  # no number of processes and no batch divides it
MODES = [
    "plain",
    "list",
    "workers",
    "uneven_batches",
    "stream",
    "prepared",
    "prepared_uneven",
    "prepared_split",
    "distributed_sampler",
    "dispatched",
    "stream_prepared",
    "stream_dispatched",
    "stream_dispatched_split",
]
SHAPES = ["shapes", "shapes_split", "shapes_stream_prepared"]
COUNTS = [2, pytest.param(3, marks=pytest.mark.processes), pytest.param(4, marks=pytest.mark.slow)]


def job(name: str, modes: list[str], images: int = IMAGES, **more: Any) -> dict[str, Any]:
    """Describe one job for the worker; ``requires`` is a :class:`Requirements`."""
    requires = more.pop("requires", DIAGONAL)
    return {"name": name, "modes": modes, "images": images, "options": {}, "requires": vars(requires), **more}


def launch(folder: Path, count: int, *jobs: dict[str, Any]) -> None:
    """Run jobs in ``count`` processes over gloo."""
    description = folder / "jobs.json"
    description.write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        [*command, str(WORKER), str(description)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return the folder with the results of ``count`` processes; all jobs of one count share a launch."""
    cache: dict[int, Path] = {}

    def of(count: int) -> Path:
        if count not in cache:
            cache[count] = tmp_path_factory.mktemp(f"processes{count}")
            jobs = [job("all", MODES, requires=EVERYTHING)]
            jobs += [job("all", SHAPES, 23, requires=EVERYTHING, zoo=DETECTOR)]
            jobs += [job("few", ["list", "dispatched"], 7, requires=FULL)]
            jobs += [job("some", ["shuffled"], options={"limit": 20})]
            jobs += [job("bad", ["plain", "dispatched", "disagreeing"], bad_image=9)]
            jobs += [job("stored", ["plain"], requires=EVERYTHING, options={"store": "store", "max_bytes": 100_000})]
            jobs += [job("saliency", ["plain", "dispatched", "stream_prepared"], requires=Requirements(saliency=True))]
            launch(cache[count], count, *jobs)
        return cache[count]

    return of


@pytest.fixture(scope="module")
def alone() -> ActivationStatistics:
    """The statistics of one process."""
    return collect_statistics(make_model(), in_batches(images(IMAGES), 6), EVERYTHING)


@pytest.fixture(scope="module")
def singly() -> ActivationStatistics:
    """The statistics of images of several shapes, in batches of one image."""
    values = SeveralShapes(images(23))
    single = [{"pixel_values": values[index]["pixel_values"][None]} for index in range(23)]
    return collect_statistics(model_of(DETECTOR), single, EVERYTHING)


def assert_close(found: ActivationStatistics, expected: ActivationStatistics, tolerance: float) -> None:
    assert (found.images, found.tokens) == (expected.images, expected.tokens)
    assert found.fingerprints["image_sketch"] == expected.fingerprints["image_sketch"]
    for mine, theirs in zip(found.sites, expected.sites, strict=True):
        assert mine.moments.count == theirs.moments.count
        torch.testing.assert_close(mine.moments.variance, theirs.moments.variance, rtol=tolerance, atol=0)
        assert mine.weighted is not None
        assert theirs.weighted is not None
        for one, other in ((mine.moments, theirs.moments), (mine.weighted, theirs.weighted)):
            spread = other.variance.sqrt()
            error = (one.covariance - other.covariance).abs() / torch.outer(spread, spread)
            assert float(error.max()) < tolerance
        assert mine.metric is not None
        assert theirs.metric is not None
        assert float((mine.metric - theirs.metric).abs().max() / theirs.metric.abs().max()) < 10 * tolerance


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_statistics_for_every_number_of_processes(
    count: int, mode: str, folder_of: Any, alone: ActivationStatistics
) -> None:
    # The same batches in other processes differ by float64 rounding; other batches by float32 rounding.
    same_batches = mode not in (
        "prepared_split",
        "stream_dispatched_split",
        "dispatched",
        "stream_dispatched",
        "distributed_sampler",
        "uneven_batches",
    )
    files = [folder_of(count) / f"all-{mode}-{rank}.safetensors" for rank in range(count)]
    first, *others = map(ActivationStatistics.load, files)
    assert_close(first, alone, 1e-12 if same_batches else 1e-6)
    assert kept(first) == kept(alone)
    for mine, theirs in zip(first.sites, alone.sites, strict=True):
        assert mine.halves is not None
        assert theirs.halves is not None
        if mode != "distributed_sampler":
            assert [half.count for half in mine.halves] == [half.count for half in theirs.halves]
    for other in others:
        for mine, theirs in zip(other.sites, first.sites, strict=True):
            assert torch.equal(mine.moments.comoment, theirs.moments.comoment)  # type: ignore[arg-type]
            assert torch.equal(mine.weighted.comoment, theirs.weighted.comoment)  # type: ignore
            assert torch.equal(mine.metric, theirs.metric)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("mode", SHAPES)
def test_batches_of_several_shapes_are_shared(
    count: int, mode: str, folder_of: Any, singly: ActivationStatistics
) -> None:
    for rank in range(count):
        assert_close(ActivationStatistics.load(folder_of(count) / f"all-{mode}-{rank}.safetensors"), singly, 1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_processes_share_a_store(count: int, folder_of: Any, alone: ActivationStatistics) -> None:
    store = folder_of(count) / "store"
    assert len(list(store.glob("site-*"))) == len(alone.sites)
    for file in (store, *(folder_of(count) / f"stored-plain-{rank}.safetensors" for rank in range(count))):
        assert_close(ActivationStatistics.load(file), alone, 1e-12)


def test_a_shuffle_has_the_same_order_in_all_processes(folder_of: Any) -> None:
    model = make_model()
    torch.manual_seed(5)
    loader = torch.utils.data.DataLoader(
        [{"pixel_values": image} for image in images(IMAGES)],  # type: ignore[arg-type]
        batch_size=6,
        shuffle=True,
    )
    one = collect_statistics(model, loader, DIAGONAL, limit=20)
    two = ActivationStatistics.load(folder_of(2) / "some-shuffled-1.safetensors")
    assert two.images == 20
    assert one.fingerprints["image_sketch"] == two.fingerprints["image_sketch"]


@pytest.mark.parametrize("mode", ["plain", "dispatched"])
def test_a_failure_in_one_process_is_raised_in_all(mode: str, folder_of: Any) -> None:
    for rank in (0, 1):
        error = (folder_of(2) / f"bad-{mode}-{rank}.error").read_text()
        assert error.startswith("NonFiniteError")
        assert "image 9 (counted from 0): its pixel_values" in error


def test_processes_that_read_different_data_are_refused(folder_of: Any) -> None:
    for rank in (0, 1):
        assert "different images" in (folder_of(2) / f"bad-disagreeing-{rank}.error").read_text()


@pytest.mark.parametrize("mode", ["plain", "dispatched", "stream_prepared"])
def test_the_saliency_does_not_depend_on_the_processes(mode: str, folder_of: Any) -> None:
    expected = collect_saliency(make_model(), in_batches(images(IMAGES), 6))
    first, second = (
        ActivationStatistics.load(folder_of(2) / f"saliency-{mode}-{rank}.safetensors").sites for rank in (0, 1)
    )
    for mine, other, theirs in zip(first, second, expected, strict=True):
        assert mine.saliency is not None
        assert other.saliency is not None
        assert torch.equal(mine.saliency, other.saliency)
        torch.testing.assert_close(mine.saliency, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["list", "dispatched"])
def test_more_processes_than_batches(mode: str, folder_of: Any) -> None:
    expected = collect_statistics(make_model(), in_batches(images(7), 6), FULL)
    for rank in range(3):
        found = ActivationStatistics.load(folder_of(3) / f"few-{mode}-{rank}.safetensors")
        assert found.images == 7
        for mine, theirs in zip(found.sites, expected.sites, strict=True):
            torch.testing.assert_close(mine.moments.m2, theirs.moments.m2, rtol=1e-6, atol=0)


@pytest.mark.real
@pytest.mark.slow
def test_kept_neurons_of_a_real_model_do_not_depend_on_the_processes(real_assets: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("real_worker.py")
    found = {}
    for count in (1, 2, 3):
        output = tmp_path / f"{count}.safetensors"
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, str(script), str(real_assets), str(output)], env=environment, check=True)
        found[count] = ActivationStatistics.load(output)
    assert found[1].images == 500
    for count in (2, 3):
        assert_same_kept(found[count], found[1])


def assert_same_kept(first: ActivationStatistics, second: ActivationStatistics) -> None:
    assert first.images == second.images
    for ratio in (0.3, 0.5, 0.55, 0.7):
        assert kept(first, ratio) == kept(second, ratio)
