"""Training under FSDP2 with the configuration of the recipes, in two processes that share a model over gloo."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from transformers.training_args import ParallelMode

import hf_vbp
from hf_vbp.distillation.sharding import check_launch
from hf_vbp.errors import ConfigurationError
from tests.distillation.helpers import WIDTHS, Images, assert_same_parameters, log_of, make_trainer, parameters_of
from tests.distillation.test_processes import ROOT, launch, result

FSDP = ("--config_file", str(ROOT / "recipes" / "accelerate" / "fsdp.yaml"))
SETTINGS = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "eval_strategy": "epoch"}
# The first epoch is the "best", so that the restored weights differ from the last ones.
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
SAVING = {"save_strategy": "epoch", **BEST}


def launch_sharded(folder: Path, **settings: Any) -> dict[str, Any]:
    settings = {**SETTINGS, **settings, "fsdp_on_cpu": True, "evaluated": 10, "gradient_accumulation_steps": 2}
    done = launch(folder, processes=2, launcher=FSDP, **settings)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "log.json").read_text(encoding="utf-8"))


def train_whole(folder: Path, **settings: Any) -> Any:
    settings = {**SETTINGS, **settings, "eval_dataset": Images(10, seed=7), "gradient_accumulation_steps": 4}
    trainer = make_trainer(folder, **settings)
    trainer.train()
    return trainer


@pytest.mark.processes
def test_a_sharded_run_is_one_process_with_twice_the_accumulation(tmp_path: Path) -> None:
    log = launch_sharded(tmp_path / "two", **SAVING)
    one = train_whole(tmp_path / "one", **SAVING)
    assert log["processes"] == 2
    assert log["sharded"] > 0
    for key in ("loss", "hard_loss", "soft_loss", "eval_loss"):
        assert log[key] == pytest.approx(log_of(one, key), abs=1e-4), key
    # Restored from the checkpoint of the first epoch, which holds the names in memory, as the whole model's does.
    assert (tmp_path / "one" / "checkpoint-2").samefile(one.state.best_model_checkpoint)
    expected = parameters_of(one.model)
    _, parameters = result(tmp_path / "two")
    assert parameters.keys() == expected.keys()
    assert all(torch.allclose(parameters[name], expected[name], atol=1e-4) for name in expected)
    final = hf_vbp.from_pretrained(tmp_path / "two" / "final")
    assert final.config.vbp["widths"] == WIDTHS
    assert final.config.architectures == ["ViTForImageClassification"]
    assert_same_parameters(final, expected, tolerance=1e-4)


@pytest.mark.slow
def test_an_interrupted_sharded_run_resumes(tmp_path: Path) -> None:
    saving = {"save_strategy": "epoch"}
    launch_sharded(tmp_path / "two", **saving)
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "two" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    launch_sharded(tmp_path / "cut", **saving, resume=True)
    _, whole = result(tmp_path / "two")
    _, resumed = result(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def run(kind: DistributedType = DistributedType.MULTI_GPU, **settings: Any) -> Any:
    state = SimpleNamespace(distributed_type=kind)
    defaults = {"fsdp": None, "world_size": 2, "auto_find_batch_size": False, "distributed_state": state}
    return SimpleNamespace(**{**defaults, **settings})


def test_settings_that_do_not_work_with_fsdp_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING", raising=False)
    check_launch(run(DistributedType.MULTI_CPU, auto_find_batch_size=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_launch(run())
    check_launch(run(DistributedType.MULTI_CPU, world_size=1))
    with pytest.raises(ConfigurationError, match="on CPUs every process would hold the whole"):
        check_launch(run(DistributedType.MULTI_CPU))
    with pytest.raises(ConfigurationError, match="auto_find_batch_size does not work with FSDP"):
        check_launch(run(auto_find_batch_size=True))
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(ConfigurationError, match="leaves the teacher without weights"):
        check_launch(run())


def test_fsdp_in_a_single_process_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    single = run(fsdp=True, fsdp_config={}, parallel_mode=ParallelMode.NOT_DISTRIBUTED, world_size=1)
    with pytest.raises(ConfigurationError, match=r"fsdp is set, but this is a single process.*accelerate launch"):
        check_launch(single)
    single.fsdp_config = {"xla": True}
    check_launch(single)
    with pytest.raises(ConfigurationError, match="fsdp is set, but this is a single process"):
        make_trainer(tmp_path, model=object(), fsdp=True)
