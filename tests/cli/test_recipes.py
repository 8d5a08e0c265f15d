"""``hf-vbp recipes``, and ``hf-vbp finetune`` without a file."""

import json
from pathlib import Path

import pytest

from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.recipe import load_recipe
from tests.cli.helpers import run
from tests.workflow.finetune.helpers import make_work

RECIPES = Path(__file__).parents[2] / "recipes"


def test_recipes_are_listed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sorted(path.parent.name for path in RECIPES.glob("*/README.md"))
    assert set(expected) == {path.name for path in RECIPES.iterdir() if path.is_dir()}
    listed = json.loads(run(["recipes", "--json"], capfd, monkeypatch).out)
    assert [entry["name"] for entry in listed] == expected
    shown = run(["recipes"], capfd, monkeypatch).out
    assert all(entry["title"] in shown for entry in listed)


def test_recipes_are_copied(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(["recipes", "sample", "deit-tiny"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    for name in ("sample", "deit-tiny"):
        for file in (RECIPES / name).iterdir():
            assert (tmp_path / "recipes" / name / file.name).read_bytes() == file.read_bytes()
    assert load_recipe([tmp_path / "recipes/sample/recipe.yaml"]).name == "sample"
    again = run(["recipes", "sample"], capfd, monkeypatch)
    assert again.code == 2
    assert "exists already" in again.err
    assert run(["recipes", "sample", "--overwrite"], capfd, monkeypatch).code == 0
    everything = json.loads(run(["recipes", "--output", tmp_path / "all", "--json"], capfd, monkeypatch).out)
    assert len(everything) == len([path for path in RECIPES.glob("*/*") if path.is_file()])
    unknown = run(["recipes", "deit"], capfd, monkeypatch)
    assert unknown.code == 2
    assert "no recipe 'deit'; expected one of accelerate" in unknown.err


def test_finetuning_needs_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_work(tmp_path)
    monkeypatch.chdir(tmp_path)
    shared = ("teacher=dense", "training.max_steps=2", "training.use_cpu=true",
              "training.per_device_train_batch_size=8", "training.dataloader_pin_memory=false")  # fmt: skip
    arguments = ["finetune", "pruned", "--data", "train", "--eval-data", "test", "--output", "out", *shared]
    ran = run(arguments, capfd, monkeypatch)
    assert ran.code == 0, ran.err
    results = load_results(tmp_path / "out")
    assert (results["finetuning"]["recipe"], results["finetuning"]["steps"]) == ("defaults", 2)
    assert results["evaluation"]["finetuned"]["images"] == 10
    command = "hf-vbp finetune pruned " + " ".join(shared) + " --data train --eval-data test --output out"
    assert results["finetuning"]["command"] == command
    assert (
        "Saved to out. Load it with:\n  import hf_vbp; AutoModelForImageClassification.from_pretrained('out')"
        in ran.out
    )
    # The saved recipe is a recipe for the same run.
    again = load_recipe([tmp_path / "out/recipe.yaml"])
    assert (again.model, again.teacher, again.data.train.source, again.output) == ("pruned", "dense", "train", "out")


def test_a_token_is_refused_and_not_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    token = "hf_" + "a" * 34
    arguments = ["finetune", "pruned", "--data", "train", "--output", "out", f"training.hub_token={token}"]
    ran = run(arguments, capfd, monkeypatch)
    assert ran.code == 2
    assert "training.hub_token holds a secret" in ran.err
    assert token not in ran.err + ran.out
    assert not list(tmp_path.iterdir())
