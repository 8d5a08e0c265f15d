"""A launcher shares the pass of a command among processes; one of them writes and prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTImageProcessorPil

from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.cli.helpers import save_images, save_tiny
from tests.families.running import BY_NAME


def launch(processes: int, arguments: list[object]) -> str:
    # Not `accelerate launch --cpu`, which starts one process for any number.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launcher, "-m", "hf_vbp", *map(str, arguments)]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.slow
def test_two_processes_write_the_same_as_one(tmp_path: Path) -> None:
    model, images = save_tiny(tmp_path / "model"), save_images(tmp_path / "images")
    shown = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.safetensors"
        shown.append(launch(processes, ["stats", model, "--data", images, "--batch-size", "4", "--output", output]))
    one, two = (ActivationStatistics.load(tmp_path / f"{processes}.safetensors") for processes in (1, 2))
    assert one.images == two.images == 15
    for first, second in zip(one.sites, two.sites, strict=True):
        torch.testing.assert_close(first.moments.variance, second.moments.variance, rtol=1e-9, atol=0)
    # One process prints, and neither mistook the work of the other for its own.
    assert shown[1].count("vit.layers.0.mlp") == shown[0].count("vit.layers.0.mlp") > 0


@pytest.mark.slow
def test_one_of_two_processes_refits_mixed_neurons_alone(tmp_path: Path) -> None:
    """The other one has ended by then, so the pass of the refit must not wait for it."""
    model, images = tmp_path / "model", save_images(tmp_path / "images")
    BY_NAME["ConvNextV2ForImageClassification"].build().save_pretrained(model)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(model)
    weights = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        options = ["--batch-size", "4", "--ratio", "0.4", "--preset", "paper", "--output", output]
        launch(processes, ["prune", model, "--data", images, *options])
        weights.append(load_file(output / "model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)
