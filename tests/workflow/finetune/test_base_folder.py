"""The default teacher of a checkpoint that was pruned from a folder, of which it records only the name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.errors import ConfigurationError
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.start import choose_teacher, open_start
from tests.workflow.finetune.helpers import Said, make_dense, make_pruned, recipe_for


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with ``dense`` and ``pruned``."""
    make_dense(tmp_path / "dense")
    make_pruned(tmp_path / "pruned", tmp_path / "dense")
    return tmp_path


def chosen(work: Path, **changes: Any) -> tuple[Any, Said]:
    recipe, said = make_recipe({**recipe_for(work), "teacher": None, **changes}), Said()
    return choose_teacher(recipe, open_start(recipe, said), said, weight=0.5), said


def refused(work: Path, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        chosen(work, **changes)
    return str(caught.value)


@pytest.mark.parametrize("place", ["next to the checkpoint", "the current folder"])
def test_a_folder_with_the_pruned_weights_is_the_teacher(
    work: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "the current folder":
        (work / "here").mkdir()
        (work / "dense").rename(work / "here" / "dense")
        monkeypatch.chdir(work / "here")
    choice, said = chosen(work)
    expected = hf_vbp.from_pretrained(work / ("here/dense" if place == "the current folder" else "dense"))
    assert choice.is_base
    assert choice.described == {"teacher": "dense"}
    found = choice.loaded.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    assert said.lines[-1].startswith("The teacher is ")
    assert said.lines[-1].endswith("dense, the model that was pruned")


def test_the_weights_are_compared_in_the_dtype_of_the_checkpoint(work: Path) -> None:
    make_pruned(work / "half", work / "dense", dtype=torch.bfloat16)
    choice, _ = chosen(work, model=str(work / "half"))
    assert choice.is_base
    assert choice.loaded.model.dtype == torch.bfloat16


def test_a_folder_with_other_weights_is_not_the_teacher(work: Path) -> None:
    shutil.rmtree(work / "dense")
    message = refused(work)
    assert "pruned was pruned from a folder named 'dense', and there is no such folder here or next to" in message
    assert "Add --teacher /path/to/dense, or train on labels alone with --teacher none" in message
    make_dense(work / "dense", seed=2)
    assert f"{work / 'dense'} does not hold the weights that were pruned. Add --teacher" in refused(work)
    (work / "dense" / "model.safetensors").write_bytes(b"cut")
    assert f"{work / 'dense'} cannot be loaded (" in refused(work)


def test_without_its_plan_a_checkpoint_has_no_default_teacher(work: Path) -> None:
    (work / "pruned" / "plan.json").unlink()
    assert "dense does not hold the weights that were pruned" in refused(work)


@pytest.mark.parametrize("name", ["../dense", "/etc", ".", ".."])
def test_a_recorded_name_that_is_a_path_is_not_looked_up(
    work: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = load_results(work / "pruned")
    results["base_model"]["id"] = name
    (work / "pruned" / "vbp_results.json").write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.chdir(work / "dense")
    assert "there is no such folder" in refused(work)
