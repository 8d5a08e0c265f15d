"""``hf-vbp inspect`` reads the config of a model and nothing else."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from tests.checkpoint.helpers import make_pruned
from tests.cli.helpers import run, save_tiny
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.repository import Entry


@pytest.fixture
def inspected(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def inspect(folder: Path) -> dict[str, Any]:
        ran = run(["inspect", folder, "--json"], capfd, monkeypatch)
        assert ran.code == 0, ran.err
        found: dict[str, Any] = json.loads(ran.out)
        return found

    return inspect


def only_config(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy the config of a checkpoint, with some fields changed, and nothing else."""
    target.mkdir()
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize("kind", ["vit", "deit", "deit-teacher", "pruned", "bfloat16", "no architectures"])
def test_the_config_alone_gives_the_figures_of_the_loaded_model(kind: str, tmp_path: Path, inspected: Any) -> None:
    whole = tmp_path / "whole"
    if kind == "pruned":
        hf_vbp.save_checkpoint(make_pruned("deit-teacher"), whole, verify=False)
    else:
        save_tiny(whole, kind if kind.startswith("deit") else "vit")
    if kind == "bfloat16":
        hf_vbp.from_pretrained(whole, dtype=torch.bfloat16).save_pretrained(whole)
    found = inspected(only_config(whole, tmp_path / "config", **({"architectures": None} if " " in kind else {})))
    from transformers import AutoModelForImageClassification, DeiTForImageClassificationWithTeacher

    auto = DeiTForImageClassificationWithTeacher if found["model_type"] == "deit" else AutoModelForImageClassification
    auto = AutoModelForImageClassification if kind == "deit" else auto
    model = auto.from_pretrained(whole, dtype="auto")
    assert found["architecture"] == type(model).__name__
    assert found["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert [site["intermediate_size"] for site in found["sites"]] == [
        site.intermediate_size for site in hf_vbp.find_sites(model)
    ]
    # The smallest model that can be reached, counted on a model of these widths.
    shares = {"minimum_width", "ratio", "parameters", "macs", "bytes", "macs_with_merged_tokens"}
    assert found["reachable"].keys() == shares
    assert found["reachable"]["macs_with_merged_tokens"] < found["reachable"]["macs"]
    hidden = sum(site["intermediate_size"] for site in found["sites"])
    kept = sum(min(1, site["intermediate_size"]) for site in found["sites"])
    assert found["reachable"]["ratio"] == pytest.approx(1 - kept / hidden)


def test_no_weights_are_requested_from_the_hub(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole")
    files = {path.name: Entry(path.read_bytes()) for path in whole.iterdir()}
    assert "model.safetensors" in files
    with LoopbackHub(xet=False) as hub:
        hub.create("alice/vit").commit("refs/heads/main", files, "model", "", "alice")
        command = [sys.executable, "-m", "hf_vbp", "inspect", "alice/vit", "--json"]
        environment = hub.environment(tmp_path / "home")
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert len(json.loads(ran.stdout)["sites"]) == 3
        requested = [entry.path for entry in hub.log]
    assert any(path.endswith("config.json") for path in requested)
    assert not [path for path in requested if "safetensors" in path or path.endswith((".bin", ".py"))]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "resnet"}, "is built from a ViTConfig"),
        ({"hidden_size": -32}, "'hidden_size' -32, expected at least 1"),
        ({"patch_size": 0}, "'patch_size' 0, expected at least 1"),
        ({"hidden_act": "nothing"}, "'hidden_act' 'nothing', expected the name of an activation"),
        ({"hidden_dropout_prob": 2.0}, "describes no ViTForImageClassification that can be built"),
        ({"architectures": ["Mine"]}, "saved from the class 'Mine'"),
        ({"num_hidden_layers": 0}, "has no MLP that can be pruned"),
        # Without a limit these take hours, or all memory.
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' 1000000000, expected at most 512"),
        ({"num_labels": 10**9}, "'num_labels' 1000000000, expected at most 1,000,000"),
        ({"hidden_size": 10**9}, "'hidden_size' 1000000000, expected at most 100,000,000"),
        ({"image_size": 100_000}, r"an input of shape \(3, 100000, 100000\), which is larger"),
        ({"image_size": [1, 2, 3]}, "describes no input"),
        ({"patch_size": 100_000}, "forward pass of ViTForImageClassification fails on pixel_values"),
        ({"dtype": 0.5}, "has the dtype 0.5; expected a floating one"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "The model is quantized"),
    ],
)
def test_configs_that_describe_no_model_are_one_sentence(
    changes: dict[str, Any],
    says: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = only_config(save_tiny(tmp_path / "whole"), tmp_path / "config", **changes)
    shutil.rmtree(tmp_path / "whole")
    ran = run(["inspect", folder], capfd, monkeypatch)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(says, " ".join(ran.err.split())), ran.err
    assert "unexpected" not in ran.err
