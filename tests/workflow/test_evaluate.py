"""Evaluation from Python: into the results, the saved checkpoint and the card."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import hf_vbp
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.errors import ConfigurationError, PlanError, UnsupportedModelError
from hf_vbp.results.record import load_results, schema
from tests.conftest import make_model

Batches = list[dict[str, torch.Tensor]]


class Unread:
    def __iter__(self) -> Any:
        raise AssertionError("the images were read")


def test_prune_with_evaluation_images(vit: Any, batches: Batches, tmp_path: Path) -> None:
    config = hf_vbp.VBPConfig(ratio=0.5)
    result = hf_vbp.prune(vit, batches, config, eval_data=batches)
    jsonschema.validate(result.results, schema())
    evaluation = result.results["evaluation"]
    with torch.no_grad():
        logits = [[model(pixel_values=b["pixel_values"]).logits for b in batches] for model in (vit, result.model)]
    labels = torch.cat([b["labels"] for b in batches])
    for name, outputs in zip(("dense", "pruned"), logits, strict=True):
        assert evaluation[name]["top1"] == pytest.approx(
            float((torch.cat(outputs).argmax(1) == labels).double().mean())
        )
    agree = (torch.cat(logits[0]).argmax(1) == torch.cat(logits[1]).argmax(1)).double().mean()
    assert evaluation["pruned"]["agreement"] == pytest.approx(float(agree))
    assert result.results["data"]["evaluation"] == {"source": "unnamed batches", "images": 30}
    assert result.results["observed"]["relative_output_error"] > 0
    # The same in two steps, which leaves the first result as it is.
    first = hf_vbp.prune(vit, batches, config)
    second = hf_vbp.evaluate(first, batches)
    assert "evaluation" not in first.results
    assert second.results["evaluation"] == evaluation
    result.save_pretrained(tmp_path / "pruned", verify=False)
    saved = load_results(tmp_path / "pruned")
    assert saved["evaluation"] == evaluation
    card = str(render_card(make_facts(saved, repo_id="me/pruned-vit", base_model="me/base")))
    assert "| top-1" in card


@pytest.mark.parametrize(
    ("changes", "described"),
    [
        ({"num_labels": 1}, "predicts a number per image"),
        ({"num_labels": 3, "problem_type": "regression"}, "predicts a number per image"),
        ({"problem_type": "multi_label_classification"}, "predicts several labels per image"),
    ],
)
def test_other_tasks_are_refused_before_the_images_are_read(changes: dict[str, Any], described: str) -> None:
    model, config = make_model(**changes), hf_vbp.VBPConfig(ratio=0.5)
    with pytest.raises(UnsupportedModelError, match=described):
        hf_vbp.prune(model, Unread(), config, eval_data=Unread())
    with pytest.raises(UnsupportedModelError, match=described):
        hf_vbp.sweep(model, Unread(), ratios=[0.5], eval_data=Unread())


def test_a_replaced_head_of_one_output_is_refused_before_the_images_are_read(vit: Any) -> None:
    vit.classifier = torch.nn.Linear(32, 1)
    with pytest.raises(UnsupportedModelError, match=r"logits have the shape \(1, 1\)"):
        hf_vbp.prune(vit, Unread(), hf_vbp.VBPConfig(ratio=0.5), eval_data=Unread())


def test_what_cannot_be_evaluated_is_refused_before_the_images_are_read(vit: Any, batches: Batches) -> None:
    config = hf_vbp.VBPConfig(ratio=0.5)
    with pytest.raises(UnsupportedModelError, match="is a ViTModel, which gives no logits"):
        hf_vbp.prune(make_model("vit-backbone"), Unread(), config, eval_data=Unread())
    with pytest.raises(ConfigurationError, match="inplace=True"):
        hf_vbp.prune(vit, Unread(), config, eval_data=Unread(), inplace=True)
    dense = make_model("vit")
    result = hf_vbp.prune(vit, batches, config, inplace=True)
    with pytest.raises(ConfigurationError, match=r"pruned in place.*Pass dense="):
        hf_vbp.evaluate(result, batches)
    assert hf_vbp.evaluate(result, batches, dense=dense).results["evaluation"]["pruned"]["images"] == 30


def test_the_result_of_parts_is_that_of_the_whole(vit: Any, batches: Batches, tmp_path: Path) -> None:
    config = hf_vbp.VBPConfig(ratio=0.5)
    statistics = hf_vbp.collect_statistics(vit, batches, config)
    plan = hf_vbp.make_plan(vit, statistics, config)
    pruned = hf_vbp.apply_plan(vit, plan, statistics)
    parts = hf_vbp.PruningResult.from_parts(vit, pruned, plan, statistics)
    whole = hf_vbp.prune(vit, batches, config)
    assert parts.results == whole.results
    assert hf_vbp.evaluate(parts, batches).results == hf_vbp.evaluate(whole, batches).results
    parts.save_pretrained(tmp_path / "pruned", verify=False)
    assert load_results(tmp_path / "pruned")["plan"]["widths"] == plan.widths
    with pytest.raises(PlanError, match="widths"):
        hf_vbp.PruningResult.from_parts(vit, vit, plan, statistics)
