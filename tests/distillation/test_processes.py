import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_vbp.distillation.checkpoints import last_checkpoint
from tests.distillation.helpers import make_trainer, parameters_of

ROOT = Path(__file__).parents[2]
SCRIPT = "tests.distillation.run_training"
DDP = ("--multi_gpu", "--num_machines", "1", "--dynamo_backend", "no")
SAVING = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}


def launch(
    folder: Path, *, processes: int = 1, launcher: Sequence[str] = DDP, **settings: Any
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", SCRIPT]
    if processes > 1:
        options = ["--num_processes", str(processes), "--main_process_port", "0", "--mixed_precision", "no"]
        command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, *options, "--module", SCRIPT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, str(folder), json.dumps(settings)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result(folder: Path) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    log = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    return log, torch.load(folder / "parameters.pt", weights_only=True)


@pytest.mark.processes
@pytest.mark.parametrize("kill", [{"kill_at": 5}, {"kill_while_saving": 4}])
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, kill: dict[str, int]) -> None:
    whole = make_trainer(tmp_path / "whole", **SAVING)
    whole.train()
    killed = launch(tmp_path / "killed", **SAVING, **kill)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    last = last_checkpoint(tmp_path / "killed")
    assert last is not None
    assert last.name == ("checkpoint-4" if "kill_at" in kill else "checkpoint-2")
    resumed = launch(tmp_path / "killed", **SAVING, resume=True)
    assert resumed.returncode == 0, resumed.stderr
    _, parameters = result(tmp_path / "killed")
    expected = parameters_of(whole.model)
    assert parameters.keys() == expected.keys()
    assert all(torch.equal(parameters[name], expected[name]) for name in expected)


@pytest.mark.processes
def test_two_processes_are_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 2}
    two = launch(tmp_path / "two", processes=2, **settings, gradient_accumulation_steps=2)
    assert two.returncode == 0, two.stderr
    one = make_trainer(tmp_path, **settings, gradient_accumulation_steps=4)
    one.train()
    log, parameters = result(tmp_path / "two")
    assert log["processes"] == 2
    for key in ("loss", "hard_loss", "soft_loss"):
        expected = [entry[key] for entry in one.state.log_history if key in entry]
        assert len(expected) == 4
        assert log[key] == pytest.approx(expected, abs=1e-4)
    expected_parameters = parameters_of(one.model)
    for name, value in expected_parameters.items():
        assert torch.allclose(parameters[name], value, atol=1e-4), name


@pytest.mark.processes
def test_two_processes_share_the_work_of_caching_the_teacher(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "cache_teacher_logits": True}
    two = launch(tmp_path / "two", processes=2, **settings)
    assert two.returncode == 0, two.stderr
    one = make_trainer(tmp_path, **{**settings, "cache_teacher_logits": False}, gradient_accumulation_steps=2)
    one.train()
    log, _ = result(tmp_path / "two")
    assert log["loss"] == pytest.approx([e["loss"] for e in one.state.log_history if "loss" in e], abs=1e-4)
