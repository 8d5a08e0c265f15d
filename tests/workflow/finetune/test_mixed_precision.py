"""Training in bfloat16 on the CPU: every way of saving works, and all figures are measured in float32."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import Trainer, TrainingArguments

import hf_vbp
from hf_vbp.checkpoint.receipt import take_receipt
from hf_vbp.data import load_processor
from hf_vbp.workflow.finetune.fields import merge
from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.distillation.helpers import Images, make_student
from tests.workflow.finetune.helpers import Said, make_pruned, make_work, recipe_for

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*/recipe.yaml"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"))


@pytest.fixture
def work(filled: Path, tmp_path: Path) -> Path:
    for name in ("dense", "pruned", "train", "test"):
        (tmp_path / name).symlink_to(filled / name)
    return tmp_path


@pytest.fixture(params=["argument", "environment"])
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A plain Trainer after two steps of a pruned model in bfloat16."""
    if request.param == "environment":
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, use_cpu=True, bf16=request.param == "argument", disable_tqdm=True,
        report_to="none", dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(make_student(), arguments, train_dataset=Images(16))
    trainer.train()
    assert trainer.accelerator.mixed_precision == "bf16"
    return trainer


@pytest.fixture
def receipts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Receipts in this process in place of a fresh one: the reloaded model must give the reference to rounding."""
    differences: list[float] = []

    def run(job_folder: Path, *_: Any) -> list[dict[str, Any]]:
        job = json.loads((job_folder / "job.json").read_text(encoding="utf-8"))
        reference = load_file(job["references"]["import"])
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            loaded = hf_vbp.from_pretrained(job["directory"], dtype=getattr(torch, job["dtype"])).eval()
            output = loaded(**load_file(job["inputs"]))
        differences.append(float((output.logits - reference["logits"]).abs().max()))
        return [{"way": "import", "transformers": "0", "max_abs_difference": differences[-1]}]

    monkeypatch.setattr("hf_vbp.checkpoint.receipt._run", run)
    yield differences
    assert differences
    assert max(differences) < 1e-5


def test_the_model_of_the_trainer_is_saved(trainer: Any, tmp_path: Path) -> None:
    receipt = hf_vbp.save_checkpoint(trainer.model, tmp_path / "out")
    assert [entry.max_abs_difference for entry in receipt.entries] == [0.0, 0.0]
    saved = hf_vbp.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("keep", [True, False])
def test_the_unwrapped_model_is_saved(trainer: Any, tmp_path: Path, keep: bool, receipts: list[float]) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=keep)
    hf_vbp.save_checkpoint(model, tmp_path / "out")


def test_saving_and_verifying_inside_autocast(trainer: Any, tmp_path: Path, receipts: list[float]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        hf_vbp.save_checkpoint(trainer.model, tmp_path / "out")
        hf_vbp.verify_checkpoint(tmp_path / "out")
        take_receipt(trainer.model, tmp_path / "out")


def test_a_model_that_is_pruned_after_training_is_saved(trainer: Any, tmp_path: Path, receipts: list[float]) -> None:
    batches = [{"pixel_values": torch.randn(4, 3, 32, 32)}]
    result = hf_vbp.prune(trainer.model, batches, hf_vbp.VBPConfig(ratio=0.5))
    assert not {"forward", "_original_forward"} & vars(result.model).keys()
    hf_vbp.save_checkpoint(result, tmp_path / "out")


def cross_entropy(folder: Path, work: Path) -> float:
    """The loss of a checkpoint on the test images, in float32, from the pixels of the processor."""
    model, total, count = hf_vbp.from_pretrained(folder).eval(), 0.0, 0
    images = hf_vbp.load_images(
        str(work / "test"), load_processor(work / "dense"), model=model, purpose="evaluation", batch_size=3
    )
    with torch.no_grad():
        for batch in images.loader:
            logits = model(pixel_values=batch["pixel_values"]).logits
            total += float(functional.cross_entropy(logits, batch["labels"], reduction="sum"))
            count += len(logits)
    return total / count


@pytest.mark.parametrize("by", ["recipe", "environment"])
def test_a_recipe_measures_every_state_in_float32(
    work: Path, by: str, monkeypatch: pytest.MonkeyPatch, receipts: list[float]
) -> None:
    if by == "environment":
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    results = run_finetune(make_recipe(recipe_for(work, bf16=by == "recipe")), Said())
    assert results["finetuning"]["precision"] == "bf16"
    dense, pruned, after = (hf_vbp.from_pretrained(work / name).eval() for name in ("dense", "pruned", "out"))
    images = hf_vbp.load_images(str(work / "test"), load_processor(work / "dense"), model=dense, purpose="evaluation")
    models = {"dense": dense, "pruned": pruned, "finetuned": after}
    expected = hf_vbp.evaluation.evaluate_models(models, images.loader)
    for name in models:
        assert results["evaluation"][name]["top1"] == expected[name].top1
        if name != "dense":
            assert results["evaluation"][name]["kl"] == pytest.approx(expected[name].kl, rel=1e-5)
    last = results["finetuning"]["per_epoch"][-1]
    assert last["evaluation_loss"] == pytest.approx(cross_entropy(work / "out", work), rel=1e-5)


def test_a_checkpoint_in_bfloat16_is_measured_in_float32_throughout(work: Path, receipts: list[float]) -> None:
    hf_vbp.from_pretrained(work / "dense", dtype=torch.bfloat16).save_pretrained(work / "base")
    load_processor(work / "dense").save_pretrained(work / "base")
    make_pruned(work / "half", work / "base", dtype=torch.bfloat16)
    names = ("base", "half", "out")
    changes = {"model": str(work / "half"), "teacher": str(work / "base")}
    results = run_finetune(make_recipe(merge(recipe_for(work, bf16=True, learning_rate=1e-4), changes)), Said())
    assert hf_vbp.from_pretrained(work / "out", dtype="auto").dtype == torch.bfloat16
    dense, pruned, after = (hf_vbp.from_pretrained(work / name, dtype=torch.float32).eval() for name in names)
    images = hf_vbp.load_images(str(work / "test"), load_processor(work / "dense"), model=dense, purpose="evaluation")
    expected = hf_vbp.evaluation.evaluate_models({"dense": dense, "pruned": pruned, "finetuned": after}, images.loader)
    for name in ("pruned", "finetuned"):
        assert results["evaluation"][name]["kl"] == pytest.approx(expected[name].kl, rel=1e-5)


# The data and the model are small ones, and there is no GPU; everything else is as shipped.
SMALL = {
    "data.train.source": "train", "data.train.split": "", "data.evaluation.source": "test",
    "data.evaluation.split": "",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_shipped_recipe_trains_and_saves(
    path: Path, work: Path, monkeypatch: pytest.MonkeyPatch, receipts: list[float]
) -> None:
    monkeypatch.chdir(work)
    shipped = load_recipe([path])
    overrides = {} if path.parent.name == "sample" else dict(SMALL)
    if shipped.prune is None:
        overrides |= {"model": "pruned", "teacher": "dense"}
    elif shipped.prune.model != "sample":
        overrides |= {"prune.model": "dense", "prune.data.source": "train"}
    settings = ["training.max_steps=2", "training.use_cpu=true"]
    recipe = load_recipe([path, *(f"{name}={value}" for name, value in overrides.items()), *settings])
    assert {**recipe.training, "max_steps": 0, "use_cpu": 0} == {**shipped.training, "max_steps": 0, "use_cpu": 0}
    results = run_finetune(recipe, Said())
    assert results["finetuning"]["steps"] == 2
    assert results["finetuning"]["precision"] == ("bf16" if shipped.training.get("bf16") else "fp32")
    assert set(results["evaluation"]) == {"dense", "pruned", "finetuned", "retention"}
    assert hf_vbp.from_pretrained(work / recipe.output).config.vbp["widths"]
