"""Passes that are interrupted, also by SIGKILL in other processes, and continue to the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import DIAGONAL, EVERYTHING, FULL, METRIC, images, in_batches
from tests.calibration.test_processes import WORKER, job, launch
from tests.conftest import make_model

OPTIONS: dict[str, Any] = {"resume_every": 2}


class InterruptedError_(RuntimeError):
    """Raised in place of a kill, within this process."""


def interrupted(batches: int) -> Any:
    """Return a progress callback that raises after so many batches."""
    left = [batches]

    def progress(done: int, total: int | None) -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError_

    return progress


def assert_same_bits(first: ActivationStatistics, second: ActivationStatistics) -> None:
    assert first.fingerprints == second.fingerprints
    for mine, theirs in zip(first.sites, second.sites, strict=True):
        for name in ("mean", "m2", "comoment"):
            for one, other in ((mine.moments, theirs.moments), (mine.weighted, theirs.weighted)):
                a, b = getattr(one, name, None), getattr(other, name, None)
                assert (a is None and b is None) or torch.equal(a, b)
        assert (mine.metric is None and theirs.metric is None) or torch.equal(mine.metric, theirs.metric)  # type: ignore[arg-type]
        for half, other in zip(mine.halves or (), theirs.halves or (), strict=True):
            assert half.count == other.count
            assert torch.equal(half.mean, other.mean)
            assert torch.equal(half.m2, other.m2)


def loader(values: torch.Tensor, **settings: Any) -> Any:
    return DataLoader([{"pixel_values": image} for image in values], batch_size=4, **settings)  # type: ignore[arg-type]


@pytest.mark.processes
def test_a_pass_that_is_killed_twice_ends_with_the_same_bits(tmp_path: Path) -> None:
    options = {**OPTIONS, "resume": str(tmp_path / "state")}
    description = tmp_path / "jobs.json"
    # A pass has 9 batches; killed after the 3rd, then again after 4 more, then not at all.
    for kill_after, expected in ((3, -signal.SIGKILL), (4, -signal.SIGKILL), (None, 0)):
        killed = job("killed", ["plain"], requires=EVERYTHING, options=options, kill_after=kill_after)
        description.write_text(json.dumps([killed]))
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, str(WORKER), str(description)], env=environment, capture_output=True, text=True
        )
        assert result.returncode == expected, result.stderr[-4000:]
        assert (tmp_path / "state").exists() == (kill_after is not None)
    found = ActivationStatistics.load(tmp_path / "killed-plain-0.safetensors")
    assert_same_bits(found, collect_statistics(make_model(), in_batches(images(53), 6), EVERYTHING, **OPTIONS))


@pytest.mark.processes
def test_several_processes_continue_after_a_kill(tmp_path: Path) -> None:
    options = {**OPTIONS, "resume": str(tmp_path / "state"), "resume_every": 1}
    killed = job("killed", ["plain"], requires=EVERYTHING, options=options, kill_after=3, kill_process=1)
    with pytest.raises(AssertionError):
        launch(tmp_path, 2, killed)
    assert list((tmp_path / "state").glob("process-*-of-2.safetensors"))
    with pytest.raises(StatisticsMismatchError, match="processes differs"):
        collect_statistics(make_model(), in_batches(images(53), 6), EVERYTHING, **options)
    again = job("killed", ["plain"], requires=EVERYTHING, options=options)
    launch(tmp_path, 2, again, job("unbroken", ["plain"], requires=EVERYTHING, options=OPTIONS))
    assert not (tmp_path / "state").exists()
    found, unbroken = (
        ActivationStatistics.load(tmp_path / f"{name}-plain-1.safetensors") for name in ("killed", "unbroken")
    )
    assert_same_bits(found, unbroken)


@pytest.mark.parametrize("stop", [1, 2, 5, 33, 39])
def test_a_pass_can_be_interrupted_at_any_batch(stop: int, vit: Any, tmp_path: Path) -> None:
    batches = in_batches(images(40), 1)
    options = {**OPTIONS, "resume_every": 3}
    with pytest.raises(InterruptedError_):
        collect_statistics(vit, batches, EVERYTHING, resume=tmp_path / "s", progress=interrupted(stop), **options)
    calls: list[int] = []
    found = collect_statistics(
        vit, batches, EVERYTHING, resume=tmp_path / "s", progress=lambda done, _: calls.append(done), **options
    )
    assert calls[0] == stop // 3 * 3 + 1
    assert_same_bits(found, collect_statistics(vit, batches, EVERYTHING, **options))
    assert not (tmp_path / "s").exists()


def test_done_batches_of_a_data_set_are_not_loaded_again(vit: Any, tmp_path: Path) -> None:
    loaded: list[int] = []

    class Counting:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            loaded.append(index)
            return {"pixel_values": images(1, seed=index)[0]}

    data: Any = Counting()
    with pytest.raises(InterruptedError_):
        collect_statistics(
            vit, DataLoader(data, batch_size=4), DIAGONAL, resume=tmp_path, progress=interrupted(3), resume_every=1
        )
    loaded.clear()
    collect_statistics(vit, DataLoader(data, batch_size=4), DIAGONAL, resume=tmp_path)
    # The state of the third batch was written before its progress was reported.
    # The first batch verifies the structure of the model.
    assert loaded == [*range(4), *range(12, 20)]


def test_another_order_is_noticed(vit: Any, tmp_path: Path) -> None:
    values = images(40)

    def shuffled(seed: int) -> Any:
        return loader(values, shuffle=True, generator=torch.Generator().manual_seed(seed))

    options: dict[str, Any] = {"config": DIAGONAL, "resume": tmp_path / "s", "resume_every": 1}
    with pytest.raises(InterruptedError_):
        collect_statistics(vit, shuffled(0), progress=interrupted(4), **options)
    with pytest.raises(StatisticsError, match="another order"):
        collect_statistics(vit, shuffled(1), **options)
    with pytest.raises(StatisticsError, match="another order"):
        collect_statistics(vit, in_batches(values.flip(0), 4), **options)
    assert collect_statistics(vit, shuffled(0), **options).images == 40


def test_the_state_of_another_pass_is_refused(vit: Any, tmp_path: Path) -> None:
    values = images(40)
    options: dict[str, Any] = {"config": DIAGONAL, "resume": tmp_path / "s", "resume_every": 1}
    with pytest.raises(InterruptedError_):
        collect_statistics(vit, loader(values), progress=interrupted(4), **options)
    for key, model, changes in (
        ("weights", make_model(seed=1), {}),
        ("moments", vit, {"config": FULL}),
        ("output_metric", vit, {"config": METRIC}),
        ("limit", vit, {"limit": 8}),
        ("data", vit, {"provenance": {"split": "other"}}),
    ):
        with pytest.raises(StatisticsMismatchError, match=f"{key} differs"):
            collect_statistics(model, loader(values), **{**options, **changes})


def test_a_damaged_state_is_refused_and_an_unfinished_write_is_ignored(vit: Any, tmp_path: Path) -> None:
    values = images(20)
    options: dict[str, Any] = {"config": DIAGONAL, "resume": tmp_path / "s", "resume_every": 1}
    with pytest.raises(InterruptedError_):
        collect_statistics(vit, loader(values), progress=interrupted(2), **options)
    (state,) = (tmp_path / "s").iterdir()
    content = state.read_bytes()
    state.write_bytes(content[:-10])
    with pytest.raises(StatisticsError, match="damaged"):
        collect_statistics(vit, loader(values), **options)
    state.write_bytes(content)
    left = state.with_name(f".{state.name}.0123456789ab.partial")
    left.mkdir()
    (left / "hf_vbp_unfinished.json").write_text('{"format": "hf_vbp.unfinished"}')
    (left / "new").write_bytes(content[:50])
    found = collect_statistics(vit, loader(values), **options)
    assert_same_bits(found, collect_statistics(vit, loader(values), DIAGONAL))
    assert not (tmp_path / "s").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_any_image(vit: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StatisticsError, match="Cannot create"):
        collect_statistics(vit, loader(images(4)), resume=tmp_path / "file" / "s")
