"""The receipt, in real fresh processes; each costs seconds, so several checks share one."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_vbp
from hf_vbp.checkpoint.receipt import applicable_ways, take_receipt, verify_checkpoint
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import CheckpointError, ConfigurationError
from tests.checkpoint.helpers import UNIFORM, WIDTHS, change_config, make_pruned

ZERO = 0.0


@pytest.mark.real_process
def test_every_way_in_a_fresh_process(tmp_path: Path) -> None:
    import transformers

    model = make_pruned("deit-teacher", dtype=torch.bfloat16).train()
    files = {"vbp_results.json": lambda receipt: json.dumps({"receipt": receipt.to_list()})}
    receipt = save_checkpoint(model, tmp_path / "out", files=files)
    assert [(entry.way, entry.max_abs_difference) for entry in receipt.entries] == [
        ("import", ZERO),
        ("remote_code", ZERO),
    ]
    assert {entry.transformers for entry in receipt.entries} == {transformers.__version__}
    assert json.loads((tmp_path / "out" / "vbp_results.json").read_text())["receipt"] == receipt.to_list()
    assert model.training
    assert all(module.training for module in model.modules())


def test_uniform_checkpoint_is_stock(tmp_path: Path) -> None:
    save_checkpoint(make_pruned(widths=UNIFORM), tmp_path, verify=False)
    receipt = verify_checkpoint(tmp_path)
    assert receipt.ways == ("import", "stock")
    assert [entry.max_abs_difference for entry in receipt.entries] == [ZERO, ZERO]
    assert [row["way"] for row in receipt.to_list()] == ["import", "stock"]


@pytest.mark.parametrize("widths", [WIDTHS, UNIFORM], ids=["global", "layer"])
def test_a_backbone_without_a_pooler(tmp_path: Path, widths: list[int]) -> None:
    """As ``ViTModel(config, add_pooling_layer=False)``; an auto class builds one, which changes no other output."""
    model = make_pruned("vit-backbone", widths)
    model.pooler = None
    receipt = save_checkpoint(model, tmp_path / "out")
    assert [entry.max_abs_difference for entry in receipt.entries] == [ZERO, ZERO]
    assert not any("pooler" in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    assert verify_checkpoint(tmp_path / "out").ways == receipt.ways


def test_other_weights_are_detected_and_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_pruned()
    save = model.save_pretrained

    def save_damaged(folder: Path, **options: Any) -> None:
        save(folder, **options)
        tensors = load_file(Path(folder) / "model.safetensors")
        tensors["classifier.bias"] += 1
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(model, "save_pretrained", save_damaged)
    with pytest.raises(CheckpointError, match=r"gives outputs that differ by 1 from"):
        save_checkpoint(model, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_tampered_config_does_not_verify(tmp_path: Path) -> None:
    model = make_pruned()
    model.save_pretrained(tmp_path)
    change_config(tmp_path, vbp={"version": 1, "widths": [*WIDTHS[:2], 36]})
    with pytest.raises(CheckpointError, match="do not belong together"):
        verify_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not load by the way 'import'.*36 neurons for MLP 2"):
        take_receipt(model, tmp_path, ways=["import"])


def test_ways_that_apply(tmp_path: Path) -> None:
    make_pruned().save_pretrained(tmp_path / "with")
    assert applicable_ways(tmp_path / "with") == ("import", "remote_code")
    hf_vbp.unpatch_transformers()
    make_pruned().save_pretrained(tmp_path / "without")
    assert applicable_ways(tmp_path / "without") == ("import",)
    make_pruned(widths=UNIFORM).save_pretrained(tmp_path / "uniform")
    assert applicable_ways(tmp_path / "uniform") == ("import", "stock")


@pytest.mark.parametrize("ways", [["stock"], ["remote_code", "telepathy"], []])
def test_ways_that_do_not_apply(tmp_path: Path, ways: list[str]) -> None:
    make_pruned().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be loaded by"):
        verify_checkpoint(tmp_path, ways=ways, reference=make_pruned())


def test_folder_that_lacks_its_remote_file(tmp_path: Path) -> None:
    make_pruned().save_pretrained(tmp_path)
    (tmp_path / "modeling_hf_vbp.py").unlink()
    with pytest.raises(CheckpointError, match=r"names modeling_hf_vbp\.py, which does not exist"):
        verify_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_folder_without_config(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        verify_checkpoint(tmp_path)


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_process_that_does_not_start(tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_pruned()
    model.save_pretrained(tmp_path)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(CheckpointError, match=r"fresh process|ended with code"):
        take_receipt(model, tmp_path, python=python)
