"""A whole recipe under FSDP2, with the configuration and the script of the recipes, in two processes on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hf_vbp
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.fields import write_yaml
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.workflow.finetune.helpers import Said, make_work, recipe_for

ROOT = Path(__file__).parents[3]
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/fsdp.yaml", "--num_processes", "2")
OPTIONS = ("--mixed_precision", "no", "--main_process_port", "0", "--module", "tests.workflow.finetune.run_sharded")


@pytest.mark.slow
def test_a_recipe_gives_the_same_checkpoint_sharded_and_whole(tmp_path: Path) -> None:
    work = make_work(tmp_path)
    recipe = recipe_for(work, per_device_train_batch_size=5)
    (work / "recipe.yaml").write_text(write_yaml(recipe), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *LAUNCH, *OPTIONS, str(work / "recipe.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (work / "out-run" / "checkpoint-4" / "pytorch_model_fsdp.bin").is_file()
    one = recipe_for(work, per_device_train_batch_size=5, gradient_accumulation_steps=2)
    run_finetune(make_recipe({**one, "output": str(work / "whole")}), Said())
    sharded, whole = (hf_vbp.from_pretrained(work / name) for name in ("out", "whole"))
    assert (work / "out" / "config.json").read_bytes() == (work / "whole" / "config.json").read_bytes()
    found, expected = sharded.state_dict(), whole.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)
    runs = [load_results(work / name)["finetuning"] for name in ("out", "whole")]
    assert [run["images_per_step"] for run in runs] == [10, 10]
    assert runs[0]["processes"] == 2
    losses = [[row["loss"] for row in run["per_epoch"]] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
