"""Checkpoints that the first version wrote load forever, with and without hf_vbp."""

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageClassification

import hf_vbp
from hf_vbp.checkpoint.remote_code import inspect_code
from hf_vbp.modeling.config_record import write_widths
from tests.checkpoint.helpers import make_pruned, read_config, widths_of
from tests.foreign_code import OWN

FOLDER = Path(__file__).with_name("first_version")
WITH_CODE = ["global", "deit-teacher", "backbone"]
LOADERS = {"backbone": AutoModel}


def load(folder: Path, name: str, **options: Any) -> Any:
    return LOADERS.get(name, AutoModelForImageClassification).from_pretrained(folder, **options).eval()


@torch.no_grad()
def assert_stored_outputs(model: Any, name: str) -> None:
    stored = load_file(FOLDER / "outputs.safetensors")
    output = model(pixel_values=stored["pixel_values"])
    actual = output.logits if hasattr(output, "logits") else output.last_hidden_state
    assert (actual - stored[name]).abs().max() <= 1e-6


@pytest.mark.parametrize("name", [*WITH_CODE, "layer"])
def test_loads_by_import(name: str) -> None:
    assert_stored_outputs(load(FOLDER / name, name), name)
    hf_vbp.unpatch_transformers()
    assert_stored_outputs(hf_vbp.from_pretrained(FOLDER / name, auto_class=LOADERS.get(name)).eval(), name)


@pytest.mark.parametrize("name", WITH_CODE)
def test_loads_by_its_own_remote_code(name: str) -> None:
    assert inspect_code(FOLDER / name).findings == ()
    hf_vbp.unpatch_transformers()
    model = load(FOLDER / name, name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules")
    assert_stored_outputs(model, name)


def test_loads_by_its_own_remote_code_with_hf_vbp_imported() -> None:
    assert_stored_outputs(load(FOLDER / "global", "global", trust_remote_code=True), "global")


@pytest.mark.parametrize("name", WITH_CODE)
def test_loads_by_the_current_remote_code(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / name, tmp_path / name)
    shutil.copyfile(OWN, tmp_path / name / "modeling_hf_vbp.py")
    hf_vbp.unpatch_transformers()
    assert_stored_outputs(load(tmp_path / name, name, trust_remote_code=True), name)


def test_dense_model() -> None:
    model = load(FOLDER / "dense-global", "dense-global")
    assert widths_of(model) == [24, 24]
    assert not hasattr(model.config, "vbp")


def test_saving_again_keeps_the_record(tmp_path: Path) -> None:
    load(FOLDER / "global", "global").save_pretrained(tmp_path)
    assert read_config(tmp_path)["vbp"] == read_config(FOLDER / "global")["vbp"]
    assert_stored_outputs(load(tmp_path, "global"), "global")


def test_the_first_reader_refuses_a_new_record() -> None:
    spec = importlib.util.spec_from_file_location("first_modeling", FOLDER / "global" / "modeling_hf_vbp.py")
    assert spec is not None
    assert spec.loader is not None
    first = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(first)
    assert first.recorded_widths(SimpleNamespace(vbp=read_config(FOLDER / "global")["vbp"])) is not None
    config = make_pruned().config
    with pytest.raises(ValueError, match=r"version 2, expected 1.*upgrade hf_vbp"):
        first.recorded_widths(config)
    write_widths(config, [1, 2, 3], dense_widths=[4, 4, 4])
    with pytest.raises(ValueError, match="version 2, expected 1"):
        first.recorded_widths(config)
