"""Fine-tuning of models that are pruned and merge tokens, with the recipes that are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hf_vbp
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.data.processing import load_processor
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.record import load_results
from hf_vbp.workflow.finetune.fields import merge
from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.workflow.finetune.helpers import Said, make_work, recipe_for

COUNTS = [0, 5, 3]
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tests of recipes, with the dense model pruned and merged in place of pruned."""
    folder = make_work(tmp_path_factory.mktemp("merged"))
    model = hf_vbp.from_pretrained(folder / "dense").eval()
    batches = [{"pixel_values": torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))}]
    result = hf_vbp.prune(model, batches, hf_vbp.VBPConfig(ratio=0.5))
    result.results["base_model"] = describe_base_model(model, str(folder / "dense"))
    hf_vbp.merge_tokens(result.model, COUNTS)
    hf_vbp.save_checkpoint(result, folder / "merged", processor=load_processor(folder / "dense"), verify=False)
    return folder


@pytest.fixture
def tree(work: Path, tmp_path: Path) -> dict[str, Any]:
    return {**recipe_for(work), "model": str(work / "merged"), "output": str(tmp_path / "out")}


def test_a_recipe_trains_saves_and_verifies_the_merged_model(tree: dict[str, Any], work: Path, tmp_path: Path) -> None:
    seen: set[int] = set()
    step = DistillationTrainer.training_step

    def watched(self: Any, model: Any, *args: Any, **options: Any) -> Any:
        block = self.accelerator.unwrap_model(model).vit.layers[2].mlp
        handle = block.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[1]))
        try:
            return step(self, model, *args, **options)
        finally:
            handle.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", watched)
        results = run_finetune(make_recipe(tree), Said())
    # It trained on the tokens that are left.
    assert seen == {17 - sum(COUNTS)}
    before, after = (hf_vbp.from_pretrained(folder) for folder in (work / "merged", tmp_path / "out"))
    assert merged_tokens(after) == tuple(COUNTS)
    assert after.config.vbp == before.config.vbp
    assert not torch.equal(before.vit.layers[0].attention.k_proj.weight, after.vit.layers[0].attention.k_proj.weight)
    assert [(row["way"], row["max_abs_difference"]) for row in results["receipt"]] == [
        ("import", 0.0),
        ("remote_code", 0.0),
    ]
    assert results["merged_tokens"] == COUNTS
    assert load_results(tmp_path / "out") == json.loads(json.dumps(results))
    assert set(results["evaluation"]) >= {"dense", "pruned", "finetuned"}


def test_an_interrupted_run_resumes_bit_for_bit(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))
    run_finetune(make_recipe({**tree, "output": str(tmp_path / "whole")}), Said())

    def stop(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **options)

    step = DistillationTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_finetune(make_recipe(tree), Said())
    run_finetune(make_recipe(tree), Said(), resume=True)
    whole, resumed = (hf_vbp.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_in_a_recipe(
    tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))
    run_finetune(make_recipe({**tree, "output": str(tmp_path / "plain")}), Said())
    run_finetune(make_recipe(merge(tree, {"training": {"gradient_checkpointing": True}})), Said())
    plain, checkpointed = (hf_vbp.from_pretrained(tmp_path / name).state_dict() for name in ("plain", "out"))
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, atol=1e-5, rtol=1e-4)


def test_shipped_recipe_of_the_combination_differs_from_the_pruning_alone_in_names_only() -> None:
    combined, alone = (
        yaml.safe_load((RECIPES / name / "recipe.yaml").read_text(encoding="utf-8"))
        for name in ("deit-base-tome", "deit-base")
    )
    for name in ("model", "output"):
        assert combined.pop(name) != alone.pop(name)
    assert combined == alone
    assert load_recipe([RECIPES / "deit-base-tome" / "recipe.yaml"]).name == "deit-base-tome"
