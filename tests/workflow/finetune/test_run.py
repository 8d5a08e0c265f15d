import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml

import hf_vbp
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.cli.finetune import show
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, LabelError, UnsupportedModelError
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.finetuning import per_epoch
from hf_vbp.results.record import load_results, schema
from hf_vbp.workflow.finetune.fields import merge
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from hf_vbp.workflow.finetune.start import choose_teacher, open_start
from tests.workflow.finetune.helpers import Said, make_dense, make_pruned, make_work, recipe_for


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(filled: Path, tmp_path: Path) -> Path:
    for name in ("dense", "pruned", "train", "test"):
        (tmp_path / name).symlink_to(filled / name)
    return tmp_path


@pytest.fixture
def without_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))


def test_a_fine_tuned_checkpoint_has_the_form_of_a_pruned_one(work: Path) -> None:
    said = Said()
    results = run_finetune(make_recipe(recipe_for(work)), said, command="hf-vbp finetune x")
    jsonschema.validate(results, schema())
    assert load_results(work / "out") == json.loads(json.dumps(results))
    assert [row["way"] for row in results["receipt"]] == ["import", "remote_code"]
    before, after = hf_vbp.from_pretrained(work / "pruned"), hf_vbp.from_pretrained(work / "out")
    assert after.config.vbp == before.config.vbp
    assert (work / "out" / "plan.json").read_bytes() == (work / "pruned" / "plan.json").read_bytes()
    assert not torch.equal(before.classifier.weight, after.classifier.weight)
    evaluation, run = results["evaluation"], results["finetuning"]
    assert set(evaluation) == {"dense", "pruned", "finetuned", "retention"}
    assert {evaluation[name]["images"] for name in ("dense", "pruned", "finetuned")} == {10}
    assert (run["epochs"], run["steps"], run["images_per_step"], run["teacher"]) == (2, 4, 10, "dense")
    assert [row["epoch"] for row in run["per_epoch"]] == [1, 2]
    assert run["per_epoch"][-1]["top1"] == evaluation["finetuned"]["top1"]
    if evaluation["dense"]["top1"]:
        assert run["retention"] == evaluation["finetuned"]["top1"] / evaluation["dense"]["top1"]
    assert "/" not in json.dumps({**results, "command": "", "data": {}}).replace("n/a", "")
    saved = yaml.safe_load((work / "out" / "recipe.yaml").read_text(encoding="utf-8"))
    assert saved["training"]["hard_label_weight"] == 0.5
    assert said.stages == ["Evaluation before", "Fine-tuning", "Evaluation after"]
    assert [line.split(":")[0] for line in said.lines if line.startswith("Epoch")] == ["Epoch 1.00", "Epoch 2.00"]


def test_a_recipe_with_a_prune_section_prunes_before_training(work: Path, without_verification: None) -> None:
    tree = recipe_for(work)
    del tree["teacher"]
    tree |= {
        "model": None,
        "prune": {"model": str(work / "dense"), "ratio": 0.5, "data": {"source": str(work / "train")}},
    }
    results = run_finetune(make_recipe(tree), Said())
    jsonschema.validate(results, schema())
    model = hf_vbp.from_pretrained(work / "out")
    assert model.config.vbp["widths"] == results["plan"]["widths"]
    assert results["plan"]["ratio"] == 0.5
    assert results["finetuning"]["teacher"] == "dense"
    assert (work / "out" / "plan.json").is_file()
    assert results["evaluation"]["pruned"]["agreement"] >= 0


def test_training_on_labels_alone_needs_no_teacher(work: Path, without_verification: None) -> None:
    results = run_finetune(make_recipe({**recipe_for(work), "teacher": "none"}), Said())
    run = results["finetuning"]
    assert run["teacher"] == "none"
    assert "temperature" not in run
    assert "dense" not in results["evaluation"]
    assert all("soft_loss" not in row for row in run["per_epoch"])


def test_an_interrupted_run_resumes(work: Path, without_verification: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = recipe_for(work)
    run_finetune(make_recipe({**tree, "output": str(work / "whole")}), Said())

    def stop(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    step = DistillationTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_finetune(make_recipe(tree), Said())
    assert not (work / "out").exists()
    with pytest.raises(CheckpointError, match=r"checkpoint-2 of an earlier run; continue it with --resume"):
        run_finetune(make_recipe(tree), Said())
    run_finetune(make_recipe(tree), Said(), resume=True)
    whole, resumed = (hf_vbp.from_pretrained(work / name).state_dict() for name in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bfloat16_weights_are_trained_in_float32_and_saved_in_bfloat16(work: Path, without_verification: None) -> None:
    make_pruned(work / "half", work / "dense", dtype=torch.bfloat16)
    tree = merge(recipe_for(work, learning_rate=1e-4), {"model": str(work / "half")})
    run_finetune(make_recipe(tree), Said())
    before, after = (hf_vbp.from_pretrained(work / name, dtype="auto") for name in ("half", "out"))
    assert after.dtype == torch.bfloat16
    assert not torch.equal(before.vit.layernorm.bias, after.vit.layernorm.bias)


def refused(work: Path, error: type[Exception], message: str, **changes: Any) -> None:
    with pytest.raises(error, match=message):
        run_finetune(make_recipe(merge(recipe_for(work), changes)), Said())
    assert not (work / "out").exists()
    assert not list(work.glob("out-run/checkpoint-*"))


def test_impossible_requests_are_refused_before_training(work: Path) -> None:
    refused(work, CheckpointError, "not a folder", model="./nowhere")
    refused(work, DataError, "no folder", data={"train": {"source": "./nowhere"}})
    refused(
        work,
        ConfigurationError,
        "cache_teacher_logits needs the same images in every epoch",
        training={"cache_teacher_logits": True},
    )
    refused(
        work,
        ConfigurationError,
        "keep_images is set, but the augmentation 'paper'",
        data={"augmentation": "paper", "keep_images": True},
    )


@pytest.mark.parametrize("role", ["student", "teacher", "prune"])
@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("regression", {"num_labels": 1, "id2label": None, "label2id": None}, "predicts a number per image"),
        ("labels", {"problem_type": "multi_label_classification"}, "predicts several labels per image"),
        ("backbone", None, "ViTModel, which gives no logits"),
    ],
)
def test_models_that_are_no_classifiers_are_refused_before_the_images_are_read(
    work: Path, kind: str, changes: dict[str, Any] | None, says: str, role: str
) -> None:
    folder = make_dense(work / kind, **(changes or {}))
    if changes is None:
        hf_vbp.from_pretrained(folder).vit.save_pretrained(folder)
    fields = recipe_for(work)
    fields["data"]["train"]["source"] = str(work / "missing")
    if role == "prune":
        data = {"source": str(work / "missing")}
        fields = {**fields, "prune": {"model": str(folder), "data": data, "ratio": 0.5}}
        del fields["model"]
    else:
        fields["model" if role == "student" else "teacher"] = str(folder)
    name = f"^The teacher {folder}" if role == "teacher" else f"^{folder}"
    with pytest.raises(
        UnsupportedModelError, match=rf"{name} has the class .*{says}.*`hf-vbp finetune` trains classifiers"
    ):
        run_finetune(make_recipe(fields), Said())
    assert not (work / "out").exists()


def test_a_teacher_with_other_labels_is_refused_with_the_difference(work: Path) -> None:
    other = {0: "ash", 1: "birch", 2: "elm", 3: "cedar", 4: "fir"}
    make_dense(work / "other", id2label=other, label2id={name: index for index, name in other.items()})
    refused(work, LabelError, "2 is 'cedar' in the model and 'elm' in the teacher", teacher=str(work / "other"))


def test_a_teacher_with_another_image_preparation_is_refused(work: Path) -> None:
    make_dense(work / "other")
    path = work / "other" / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "image_mean": [0.1, 0.1, 0.1]}), encoding="utf-8")
    refused(work, ConfigurationError, r"image_mean \[0\.1", teacher=str(work / "other"))


def test_figures_of_another_teacher_are_not_reported_as_those_of_the_dense_model(
    work: Path, without_verification: None
) -> None:
    make_dense(work / "other", seed=8)
    results = run_finetune(make_recipe({**recipe_for(work), "teacher": str(work / "other")}), Said())
    assert "dense" not in results["evaluation"]
    assert results["finetuning"]["teacher"] == "other"


def test_the_output_is_not_overwritten_by_default(work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "thesis.txt").write_text("two years of work", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not empty"):
        run_finetune(make_recipe(recipe_for(work)), Said())


def test_the_message_for_too_little_memory_names_the_setting(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DistillationTrainer, "training_step", full)
    refused(work, ConfigurationError, "batches of 10 images. Set training.auto_find_batch_size")


def test_the_closing_table_shows_the_kept_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"epochs": 2, "steps": 4, "images_per_step": 10, "seconds": 3.0}
    figures = {"dense": 0.8, "pruned": 0.4, "finetuned": 0.78}
    evaluation = {name: {"images": 10, "top1": value, "agreement": 0.5} for name, value in figures.items()}
    show({"finetuning": run, "evaluation": evaluation}, "out")
    shown = capsys.readouterr().out
    for text in ("78.0 %", "97.5 %", "50.0 %", "evaluated on 10 images", "from_pretrained('out')"):
        assert text in shown
    assert "2 epochs, 4 steps of 10 images in 3 s" in shown
    one = {"epochs": 1.0, "steps": 1, "images_per_step": 1, "seconds": 3.0}
    show({"finetuning": one, "evaluation": {}}, "out")
    assert "1 epoch, 1 step of 1 image in 3 s" in capsys.readouterr().out


def test_logged_values_are_grouped_by_epoch() -> None:
    history = [
        {"epoch": 0.5, "loss": 3.0},
        {"epoch": 1.0, "loss": 2.0, "hard_loss": 1.0},
        {"epoch": 1.0, "eval_top1": 0.5},
        {"epoch": 1.5, "loss": 1.0},
        {"epoch": 2.0, "eval_top1": 0.6, "eval_loss": 0.1},
    ]
    assert per_epoch(history) == [
        {"epoch": 1, "loss": 2.5, "hard_loss": 1.0, "top1": 0.5},
        {"epoch": 2, "loss": 1.0, "top1": 0.6, "evaluation_loss": 0.1},
    ]


def test_the_script_behaves_as_the_command(work: Path) -> None:
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe_for(work), "teacher": None}), encoding="utf-8")
    script = Path(__file__).parents[3] / "recipes" / "finetune.py"
    done = subprocess.run(
        [sys.executable, str(script), str(path), "training.sed=1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean seed?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_teacher_is_the_base_model_at_the_revision_in_the_results(
    work: Path, without_verification: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_vbp.workflow.finetune import start
    from hf_vbp.workflow.loading import load_model

    asked = []

    def load(source: str, *, revision: str | None = None, **options: Any) -> Any:
        asked.append((source, revision))
        return load_model(str(work / "dense") if source == "someone/dense" else source, **options)

    monkeypatch.setattr(start, "load_model", load)
    (work / "hub").mkdir()
    for path in (work / "pruned").iterdir():
        (work / "hub" / path.name).write_bytes(path.read_bytes())
    results = load_results(work / "pruned")
    results["base_model"] |= {"id": "someone/dense", "source": "hub", "revision": "abc123"}
    (work / "hub" / "vbp_results.json").write_text(json.dumps(results), encoding="utf-8")
    found = run_finetune(make_recipe(merge(recipe_for(work), {"model": str(work / "hub"), "teacher": None})), Said())
    assert asked == [(str(work / "hub"), None), ("someone/dense", "abc123")]
    assert set(found["evaluation"]) == {"dense", "pruned", "finetuned", "retention"}


@pytest.mark.real
def test_a_real_model_recovers_most_of_its_accuracy(
    real_assets: Path, tmp_path: Path, without_verification: None
) -> None:
    folder = real_assets / "vit-cifar10"
    data = {
        "train": {"source": str(real_assets / "cifar10" / "train"), "limit": 1500},
        "evaluation": {"source": str(real_assets / "cifar10" / "test"), "limit": 500, "batch_size": 100},
        "augmentation": "plain",
        "keep_images": True,
    }
    first = {"model": str(folder), "ratio": 0.6, "data": {**data["train"], "limit": 500}}
    first |= {"criterion": "variance", "compensation": "mean"}
    training = {"num_train_epochs": 1, "learning_rate": 5e-4, "use_cpu": True, "dataloader_pin_memory": False}
    tree = {"prune": first, "data": data, "training": training, "output": str(tmp_path / "out")}
    measured = run_finetune(make_recipe(tree), Said())["evaluation"]
    dense, pruned, finetuned = (measured[name]["top1"] for name in ("dense", "pruned", "finetuned"))
    assert dense - pruned > 0.05
    assert finetuned - pruned > 0.5 * (dense - pruned)
    assert measured["finetuned"]["kl"] < measured["pruned"]["kl"]


def test_the_base_of_a_student_of_another_size_is_adapted_as_the_student_was(tmp_path: Path) -> None:
    dense = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
    adapted = hf_vbp.interpolate_position_embeddings(hf_vbp.from_pretrained(hf_vbp.sample_model_path()), (48, 64))
    result = hf_vbp.prune(adapted, [{"pixel_values": torch.randn(4, 3, 48, 64)}], hf_vbp.VBPConfig(ratio=0.5))
    result.results["base_model"] = describe_base_model(adapted, "sample")
    result.save_pretrained(tmp_path / "pruned", verify=False)
    fields = {"model": str(tmp_path / "pruned"), "data": {"train": {"source": "sample"}}, "output": str(tmp_path)}
    recipe = make_recipe(fields)
    choice = choose_teacher(recipe, open_start(recipe, Said()), Said(), weight=0.5)
    assert choice.is_base
    assert choice.loaded is not None
    pixels = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        expected = dense(pixels, interpolate_pos_encoding=True).logits
        assert torch.equal(choice.loaded.model(pixels).logits, expected)
