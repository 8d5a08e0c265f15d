"""``PruningResult`` saves and publishes itself, with plan, results and receipt."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import CheckpointError
from hf_vbp.results.measured import without_unmeasured
from hf_vbp.results.record import load_results
from hf_vbp.workflow.pruning_result import PruningResult
from tests.loopback_hub import LoopbackHub


@pytest.fixture
def result(vit: Any, batches: Any) -> PruningResult:
    return hf_vbp.prune(vit, batches, VBPConfig.preset("paper", ratio=0.5))


def test_save_pretrained_writes_model_plan_and_results(result: PruningResult, tmp_path: Path) -> None:
    receipt = result.save_pretrained(tmp_path / "pruned", verify=False)
    assert receipt.entries == ()
    assert hf_vbp.PruningPlan.load(tmp_path / "pruned" / "plan.json") == result.plan
    assert load_results(tmp_path / "pruned") == without_unmeasured(json.loads(json.dumps(result.results)))
    reloaded = hf_vbp.from_pretrained(tmp_path / "pruned").state_dict()
    assert all(torch.equal(tensor, reloaded[name]) for name, tensor in result.model.state_dict().items())


def test_save_checkpoint_writes_the_same_files(result: PruningResult, tmp_path: Path) -> None:
    result.save_pretrained(tmp_path / "one", verify=False)
    hf_vbp.save_checkpoint(result, tmp_path / "other", verify=False)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "other").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_checkpoint_is_replaced_only_when_asked_for(result: PruningResult, tmp_path: Path) -> None:
    result.save_pretrained(tmp_path, verify=False)
    with pytest.raises(CheckpointError):
        result.save_pretrained(tmp_path, verify=False)
    result.save_pretrained(tmp_path, verify=False, overwrite=True)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


SCRIPT = """
import json, sys
import torch
import hf_vbp
from huggingface_hub.utils import disable_progress_bars
from transformers import ViTImageProcessor
from tests.conftest import make_model

disable_progress_bars()
model = make_model("vit")
images = [{"pixel_values": torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))}]
result = hf_vbp.prune(model, images, hf_vbp.VBPConfig.preset("paper", ratio=0.5))
options = {"processor": ViTImageProcessor(size={"height": 32, "width": 32}), "base_model": "alice/base"}
receipt = result.save_pretrained(sys.argv[1], push_to_hub=True, **options)
pushed = result.push_to_hub("alice/second", verify=False, check_load=False, **options)
dry = result.push_to_hub("alice/third", verify=False, check_load=False, dry_run=True, **options)
ways = [entry.way for entry in receipt.entries]
print(json.dumps({"ways": ways, "status": [pushed.status, dry.status], "plan": result.plan.to_dict()}))
"""


@pytest.mark.processes
def test_it_is_pushed_from_a_folder_or_directly(hub: LoopbackHub, tmp_path: Path) -> None:
    alice = hub.add_user("alice")
    hub.create("alice/base")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "first")],
        cwd=Path(__file__).parents[2],
        env=hub.environment(tmp_path / "home", alice.token, PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    printed = json.loads(ran.stdout.splitlines()[-1])
    assert printed["ways"] == ["import", "remote_code"]
    assert printed["status"][1] == "dry_run"
    first, second = hub.repositories["alice/first"].files(), hub.repositories["alice/second"].files()
    assert set(hub.repositories) == {"alice/base", "alice/first", "alice/second"}
    assert set(first) == set(second) >= {"README.md", "plan.json", "vbp_results.json", "model.safetensors"}
    assert first["model.safetensors"] == second["model.safetensors"]
    assert json.loads(second["plan.json"]) == printed["plan"]
    assert len(json.loads(first["vbp_results.json"])["receipt"]) == 2
    assert "receipt" not in json.loads(second["vbp_results.json"])
