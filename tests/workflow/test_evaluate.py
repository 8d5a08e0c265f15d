"""Evaluation from Python: into the results, the saved checkpoint and the card."""

import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import hf_vbp
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.errors import ConfigurationError, LabelError, PlanError
from hf_vbp.evaluation import Measures
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


def test_what_cannot_be_evaluated_is_refused_before_the_images_are_read(vit: Any, batches: Batches) -> None:
    config, backbone = hf_vbp.VBPConfig(ratio=0.5), make_model("vit-backbone")
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    refused: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (vit, Unread(), {"inplace": True}, ConfigurationError, "inplace=True"),
        (vit, None, {"measures": Measures()}, ConfigurationError, "measures needs images to evaluate on"),
        (vit, Unread(), {"measures": Measures(bank=Unread())}, ConfigurationError, "neighbors are sought"),
        (vit, Unread(), {"measures": Measures(neighbors=3)}, ConfigurationError, "needs a bank"),
        (backbone, batches, {}, ConfigurationError, "have labels, but ViTModel has no classes"),
        (vit, [unlabelled[0] | {"labels": torch.zeros(8, 5)}], {}, LabelError, "expected one class id for each image"),
    ]
    for model, eval_data, options, error, message in refused:
        with pytest.raises(error, match=message):
            hf_vbp.prune(model, Unread(), config, eval_data=eval_data, **options)


def test_a_model_pruned_in_place_is_evaluated_against_a_copy(vit: Any, batches: Batches) -> None:
    config = hf_vbp.VBPConfig(ratio=0.5)
    dense = make_model("vit")
    result = hf_vbp.prune(vit, batches, config, inplace=True)
    with pytest.raises(ConfigurationError, match=r"pruned in place.*Pass dense="):
        hf_vbp.evaluate(result, batches)
    assert hf_vbp.evaluate(result, batches, dense=dense).results["evaluation"]["pruned"]["images"] == 30


def test_labelled_calibration_images_are_the_bank_of_a_backbone(batches: Batches) -> None:
    model = make_model("vit-backbone")
    bank, queries = batches[:2], batches[2:]
    result = hf_vbp.prune(model, bank, hf_vbp.VBPConfig(ratio=0.5), eval_data=queries)
    jsonschema.validate(result.results, schema())
    found = result.results["evaluation"]
    features = {  # by model, of the bank and the queries
        name: [
            torch.cat([m(pixel_values=b["pixel_values"]).pooler_output.detach() for b in part]).double()
            for part in (bank, queries)
        ]
        for name, m in (("dense", model), ("pruned", result.model))
    }
    labels = [torch.cat([b["labels"] for b in part]) for part in (bank, queries)]
    for name, (known, asked) in features.items():
        hits = []
        for feature, label in zip(asked, labels[1], strict=True):
            cosines = [float(torch.nn.functional.cosine_similarity(feature, other, dim=0)) for other in known]
            votes = dict.fromkeys(range(5), 0.0)
            for cosine, other in zip(cosines, labels[0].tolist(), strict=True):
                votes[other] += math.exp(cosine / 0.07)
            hits.append(max(votes, key=lambda each: votes[each]) == int(label))
        assert found[name]["knn"]["top1"] == pytest.approx(sum(hits) / 14)
        assert (found[name]["knn"]["neighbors"], found[name]["knn"]["bank_images"]) == (16, 16)
    change = found["pruned"]["knn"]["top1"] - found["dense"]["knn"]["top1"]
    assert found["pruned"]["knn"]["change"] == pytest.approx(change)
    low, high = found["pruned"]["knn"]["change_interval"]
    assert low < change < high
    assert result.results["data"]["bank"] == {"source": "unnamed batches", "images": 16}
    # The images of the bank do not count in the observed output error.
    alone = hf_vbp.evaluate(result, [{"pixel_values": b["pixel_values"]} for b in queries])
    assert alone.results["observed"] == result.results["observed"]
    assert "knn" not in alone.results["evaluation"]["pruned"]


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
