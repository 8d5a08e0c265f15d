"""``hf-vbp recipes``, and ``hf-vbp finetune`` without a file."""

import json
from pathlib import Path

import pytest

from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.recipe import load_recipe
from tests.cli.helpers import run
from tests.workflow.finetune.helpers import CLASSES, make_dense, make_images, make_pruned, make_work

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


def test_a_model_without_class_names_is_finetuned_with_options_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {index: f"LABEL_{index}" for index in range(len(CLASSES))}
    make_dense(tmp_path / "dense", id2label=names, label2id={name: index for index, name in names.items()})
    make_pruned(tmp_path / "pruned", tmp_path / "dense")
    make_images(tmp_path / "train")
    make_images(tmp_path / "test", each=2, seed=1)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["finetune", "pruned", "--data", "train", "--eval-data", "test", "--output", "out", "--epochs", "2",
                 "--learning-rate", "1e-3", "--batch-size", "10", "training.use_cpu=true",
                 "training.dataloader_pin_memory=false"]  # fmt: skip
    refused = run(arguments, capfd, monkeypatch)
    assert refused.code == 2
    assert "--model-labels" in refused.err
    # A pruned model that has names, and its teacher, which has placeholders.
    ran = run([*arguments, "--model-labels", "names.txt"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert "The teacher is dense, the model that was pruned" in ran.err
    results = load_results(tmp_path / "out")
    finetuned = results["finetuning"]
    assert (finetuned["teacher"], finetuned["epochs"], finetuned["steps"]) == ("dense", 2, 4)
    assert (finetuned["images_per_step"], finetuned["learning_rate"]) == (10, 1e-3)
    assert set(results["evaluation"]) == {"dense", "pruned", "finetuned", "retention"}
    options = "--data train --eval-data test --model-labels names.txt --epochs 2 --learning-rate 0.001 --batch-size 10"
    settings = "training.use_cpu=true training.dataloader_pin_memory=false"
    assert finetuned["command"] == f"hf-vbp finetune pruned {settings} {options} --output out"
    assert [results["data"][part]["labels"] for part in ("finetuning", "evaluation")] == ["names", "names"]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(CLASSES)}
    assert config["label2id"] == {name: index for index, name in enumerate(CLASSES)}


def test_an_option_that_replaces_a_field_of_the_recipe_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "model: pruned\noutput: out\ndata: {train: {source: images}}\ntraining: {num_train_epochs: 7, use_cpu: true}\n"
    )
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    ran = run(["finetune", "recipe.yaml", "--epochs", "3"], capfd, monkeypatch)
    assert "--epochs 3 replaces training.num_train_epochs: 7 of the recipe" in ran.err
    both = run(["finetune", "recipe.yaml", "--epochs", "3", "training.num_train_epochs=4"], capfd, monkeypatch)
    assert both.code == 2
    assert "--epochs 3 contradicts training.num_train_epochs=4" in both.err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


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
