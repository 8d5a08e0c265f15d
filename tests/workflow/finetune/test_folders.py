"""The folders of a fine-tuning run are checked before any work, and no input of it is overwritten."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_vbp
from hf_vbp.errors import CheckpointError, HfVbpError
from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.workflow.finetune.helpers import Said, make_work, recipe_for


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(filled, tmp_path / "work")

    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr("hf_vbp.workflow.finetune.start.load_model", load)
    return tmp_path / "work"


def pruned_copy(work: Path) -> None:
    """Make ``out`` a checkpoint that --overwrite would replace."""
    hf_vbp.save_checkpoint(hf_vbp.from_pretrained(work / "pruned"), work / "out", verify=False)


def with_prune(tree: dict[str, Any], work: Path, **changes: Any) -> None:
    tree["model"] = None
    tree["prune"] = {"model": str(work / "dense"), "ratio": 0.5, "data": {"source": str(work / "train")}, **changes}


CASES: dict[str, tuple[str, Callable[[dict[str, Any], Path], object]]] = {
    "model": ("is the model of this run", lambda tree, work: tree.update(output=str(work / "pruned"))),
    "teacher": ("is the teacher of this run", lambda tree, work: tree.update(output=str(work / "dense"))),
    "training images": ("is the folder of the training", lambda tree, work: tree.update(output=str(work / "train"))),
    "evaluation images": ("is the folder of the eval", lambda tree, work: tree.update(output=str(work / "test"))),
    "everything": ("contains the model of this run", lambda tree, work: tree.update(output=str(work))),
    "model to prune": (
        "is the model to prune",
        lambda tree, work: (tree.update(output=str(work / "dense"), teacher="none"), with_prune(tree, work)),
    ),
    "statistics": (
        "contains the statistics",
        lambda tree, work: (
            pruned_copy(work),
            (work / "out" / "s").write_text(""),
            with_prune(tree, work, statistics=str(work / "out" / "s")),
        ),
    ),
    "run folder": (
        r"training\.output_dir .* is in the output",
        lambda tree, work: tree["training"].update(output_dir=str(work / "out" / "run")),
    ),
    "run folder below a file": (
        r"not a folder that can be written to. Set training\.output_dir",
        lambda tree, work: tree["training"].update(output_dir=str(work / "pruned" / "config.json" / "run")),
    ),
    "training checkpoint as the model": (
        "is the model of this run",
        lambda tree, work: (
            shutil.copytree(work / "pruned", work / "out-run" / "checkpoint-7"),
            tree.update(model=str(work / "out-run" / "checkpoint-7")),
        ),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_refused_before_any_work(work: Path, kind: str) -> None:
    says, change = CASES[kind]
    tree = recipe_for(work)
    change(tree, work)
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    with pytest.raises(HfVbpError, match=says):
        run_finetune(make_recipe(tree), Said(), overwrite=True)
    assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before
    assert not [path for path in work.rglob("*") if path.name.startswith(".")]


def test_a_recipe_in_the_output(work: Path) -> None:
    pruned_copy(work)
    path = work / "out" / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_for(work)), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"contains the recipe .*recipe\.yaml"):
        run_finetune(load_recipe([path]), Said(), overwrite=True)
    assert path.exists()


def test_a_training_checkpoint_in_the_output_is_named(work: Path) -> None:
    pruned_copy(work)
    (work / "out" / "checkpoint-500").mkdir()
    (work / "out" / "checkpoint-500" / "optimizer.pt").write_text("weeks of work")
    with pytest.raises(CheckpointError, match=r"holds checkpoint-500/optimizer\.pt"):
        run_finetune(make_recipe(recipe_for(work)), Said(), overwrite=True)
    assert os.listdir(work / "out" / "checkpoint-500") == ["optimizer.pt"]
