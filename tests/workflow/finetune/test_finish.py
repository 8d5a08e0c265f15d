"""Runs whose training ended and whose checks failed, and runs that were killed early: nothing is lost."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.errors import CheckpointError, ConfigurationError, NonFiniteError
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.fields import merge
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.workflow.finetune.helpers import Said, make_work, recipe_for


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(filled: Path, tmp_path: Path) -> Path:
    for name in ("dense", "pruned", "train", "test"):
        (tmp_path / name).symlink_to(filled / name)
    return tmp_path


@pytest.fixture(autouse=True)
def _unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))


def fail_receipt(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise CheckpointError("The outputs differ.")

    patch.setattr("hf_vbp.checkpoint.saving.take_receipt", fail)


def fail_evaluation_after(patch: pytest.MonkeyPatch) -> None:
    from hf_vbp import evaluation

    def fail(models: Any, *args: Any, **options: Any) -> Any:
        if "finetuned" in models:
            raise torch.OutOfMemoryError("The outputs differ.")
        return evaluate(models, *args, **options)

    evaluate = evaluation.evaluate_models
    patch.setattr(evaluation, "evaluate_models", fail)


def fail_last_evaluation_of_the_trainer(patch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == self.state.max_steps:
            raise NonFiniteError("The outputs differ.")
        return evaluate(self, *args, **options)

    evaluate = DistillationTrainer.evaluate
    patch.setattr(DistillationTrainer, "evaluate", fail)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("the run must go straight to saving")


FAILURES = [fail_receipt, fail_evaluation_after, fail_last_evaluation_of_the_trainer]


@pytest.mark.parametrize("fail", FAILURES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("strategy", ["epoch", "no"])
def test_the_trained_model_is_kept_and_resume_saves_it(
    work: Path, fail: Any, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = recipe_for(work, save_strategy=strategy)
    whole = run_finetune(make_recipe({**tree, "output": str(work / "whole")}), Said())
    assert not (work / "whole.unverified").exists()
    kept = work / "out.unverified"
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(CheckpointError, match=r"The outputs differ\..*out\.unverified\. .*--resume") as caught:
            run_finetune(make_recipe(tree), Said(), command="hf-vbp finetune x")
    assert str(kept) in str(caught.value)
    assert not (work / "out").exists()
    expected = hf_vbp.from_pretrained(work / "whole").state_dict()
    found = hf_vbp.from_pretrained(kept).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert {"plan.json", "recipe.yaml", "vbp_results.json", "preprocessor_config.json"} <= set(os.listdir(kept))
    assert set(load_results(kept)["evaluation"]) == {"dense", "pruned", "retention"}

    with pytest.raises(CheckpointError, match=r"out\.unverified holds the trained model.*--resume, or .*--overwrite"):
        run_finetune(make_recipe(tree), Said())
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "train", never)
        patch.setattr("hf_vbp.workflow.finetune.run.open_start", never)
        results = run_finetune(make_recipe(tree), Said(), resume=True)
    assert not kept.exists()
    saved = hf_vbp.from_pretrained(work / "out").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in expected.items())
    assert results["evaluation"] == whole["evaluation"]
    assert results["finetuning"]["command"] == "hf-vbp finetune x"
    assert results["finetuning"]["steps"] == whole["finetuning"]["steps"]
    assert load_results(work / "out") == results


def test_a_recipe_that_prunes_first_is_finished_without_pruning_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"model": str(work / "dense"), "ratio": 0.5, "data": {"source": str(work / "train")}}
    tree = {**recipe_for(work), "model": None, "teacher": None, "prune": first}
    with monkeypatch.context() as patch:
        fail_receipt(patch)
        with pytest.raises(CheckpointError):
            run_finetune(make_recipe(tree), Said())
    monkeypatch.setattr("hf_vbp.workflow.prune.prune", never)
    results = run_finetune(make_recipe(tree), Said(), resume=True)
    assert set(results["evaluation"]) == {"dense", "pruned", "finetuned", "retention"}
    assert hf_vbp.from_pretrained(work / "out").config.vbp["widths"] == results["plan"]["widths"]
    assert (work / "out" / "plan.json").is_file()


def left_unverified(work: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    tree = recipe_for(work, num_train_epochs=1)
    with monkeypatch.context() as patch:
        fail_receipt(patch)
        with pytest.raises(CheckpointError):
            run_finetune(make_recipe(tree), Said())
    return tree


def test_an_unverified_model_of_another_recipe_is_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = left_unverified(work, monkeypatch)
    for changes, name in (
        ({"training": {"learning_rate": 0.5}}, r"training\.learning_rate"),
        ({"data": {"evaluation": {"limit": 4}}}, r"data\.evaluation\.limit"),
    ):
        with pytest.raises(ConfigurationError, match=rf"another recipe: {name} differ"):
            run_finetune(make_recipe(merge(tree, changes)), Said(), resume=True)
    changes = {"data": {"evaluation": {"batch_size": 3}}, "training": {"dataloader_num_workers": 0}}
    results = run_finetune(make_recipe(merge(tree, changes)), Said(), resume=True)
    assert results["evaluation"]["finetuned"]["images"] == 10


def test_an_unverified_model_is_saved_without_evaluation(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = left_unverified(work, monkeypatch)
    results = run_finetune(make_recipe(merge(tree, {"data": {"evaluation": None}})), Said(), resume=True)
    assert "finetuned" not in results["evaluation"]
    assert (work / "out" / "model.safetensors").is_file()


def test_overwrite_starts_over(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = left_unverified(work, monkeypatch)
    said = Said()
    run_finetune(make_recipe(tree), said, overwrite=True)
    assert "Fine-tuning" in said.stages
    assert sorted(path.name for path in work.glob("out*")) == ["out", "out-run"]


def test_a_folder_in_the_way_is_refused_before_training(work: Path) -> None:
    (work / "out.unverified").mkdir()
    (work / "out.unverified" / "notes.txt").write_text("mine", encoding="utf-8")
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="move it away, or choose another output"):
            run_finetune(make_recipe(recipe_for(work)), Said(), resume=resume, overwrite=True)
    assert (work / "out.unverified" / "notes.txt").is_file()


def test_resume_before_the_first_checkpoint_starts_from_the_beginning(work: Path) -> None:
    tree = recipe_for(work)
    run_finetune(make_recipe({**tree, "output": str(work / "whole")}), Said())
    (work / "out-run" / "checkpoint-2").mkdir(parents=True)  # possible remains of a kill while saving
    said = Said()
    run_finetune(make_recipe(tree), said, resume=True)
    assert [line for line in said.lines if "training starts from the beginning" in line]
    whole, resumed = (hf_vbp.from_pretrained(work / name).state_dict() for name in ("whole", "out"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_resume_from_the_last_step_takes_no_step_more(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = recipe_for(work, max_steps=1)  # in the middle of an epoch
    run_finetune(make_recipe({**tree, "output": str(work / "whole")}), Said())
    with monkeypatch.context() as patch:
        patch.setattr("hf_vbp.workflow.finetune.run.keep", never)
        with pytest.raises(AssertionError, match="straight to saving"):
            run_finetune(make_recipe(tree), Said())
    results = run_finetune(make_recipe(tree), Said(), resume=True)
    assert results["finetuning"]["steps"] == 1
    whole, resumed = (hf_vbp.from_pretrained(work / name).state_dict() for name in ("whole", "out"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_disk_that_is_full_at_the_end_names_the_checkpoints_of_the_run(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = recipe_for(work, num_train_epochs=1)

    def full(*_: Any, **__: Any) -> Any:
        raise CheckpointError("No space left.")

    with monkeypatch.context() as patch:
        patch.setattr("hf_vbp.checkpoint.unverified.save_checkpoint", full)
        with pytest.raises(CheckpointError, match=r"No space left\..*checkpoints are in .*out-run.*--resume"):
            run_finetune(make_recipe(tree), Said())
    run_finetune(make_recipe(tree), Said(), resume=True)
    assert (work / "out" / "model.safetensors").is_file()
