"""What each lever of a pruned model does alone, in the results and in the card."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

import hf_vbp
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.cli.console import Reporter
from hf_vbp.costs.counts import count_macs
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.results.record import load_results, schema
from hf_vbp.token_merging.merge_tokens import merged_tokens
from hf_vbp.workflow.each_lever import models_of_each_lever
from hf_vbp.workflow.measure import measure_all
from tests.costs.clock import Clock

Batches = list[dict[str, torch.Tensor]]
BOTH = hf_vbp.VBPConfig(ratio=0.5, merge_tokens=3)


def accuracy(model: Any, batches: Batches) -> float:
    with torch.no_grad():
        hits = [model(pixel_values=batch["pixel_values"]).logits.argmax(-1) == batch["labels"] for batch in batches]
    return float(torch.cat(hits).double().mean())


def alone(vit: Any, result: Any) -> list[Any]:
    """Make the four models without the code under test: dense, narrower, merging, both."""
    merging = type(vit)(copy.deepcopy(vit.config))
    merging.load_state_dict(vit.state_dict())
    hf_vbp.merge_tokens(merging.eval(), 3)
    narrow = hf_vbp.apply_plan(vit, result.plan, result.statistics)
    hf_vbp.merge_tokens(narrow, 0)
    return [vit, narrow, merging, result.model]


def test_an_evaluation_has_the_figures_of_each_lever(vit: Any, batches: Batches, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in vit.state_dict().items()}
    result = hf_vbp.prune(vit, batches, BOTH, eval_data=batches)
    jsonschema.validate(result.results, schema())
    rows = result.results["levers"]
    assert [row["model"] for row in rows] == ["dense", "mlp", "tokens", "both"]
    assert set(result.results["evaluation"]) == {"dense", "pruned", "retention"}
    for row, model in zip(rows, alone(vit, result), strict=True):
        assert row["top1"] == pytest.approx(accuracy(model, batches))
        assert row["macs"] == count_macs(model)
    assert rows[0]["bytes"] == rows[2]["bytes"] > rows[1]["bytes"] == rows[3]["bytes"]
    # The models themselves still use what they used.
    assert merged_tokens(vit) == ()
    assert all(torch.equal(value, weights[name]) for name, value in vit.state_dict().items())
    assert any(merged_tokens(result.model))
    result.save_pretrained(tmp_path / "pruned", verify=False)
    card = str(render_card(make_facts(load_results(tmp_path / "pruned"), repo_id="me/pruned")))
    lines = [line for line in card.splitlines() if line.startswith(("| narrower MLPs alone", "| merged tokens alone"))]
    assert len(lines) == 2
    assert f"{100 * rows[1]['top1']:.1f} %" in lines[0]


@pytest.mark.parametrize(
    "config",
    [hf_vbp.VBPConfig(ratio=0.5), hf_vbp.VBPConfig(target_macs=0.8, levers=("tokens",))],
    ids=["mlp", "tokens"],
)
def test_a_model_with_one_lever_has_no_such_figures(vit: Any, batches: Batches, config: Any) -> None:
    result = hf_vbp.prune(vit, batches, config, eval_data=batches)
    assert models_of_each_lever(vit, result.model) == {}
    assert "levers" not in result.results


def test_other_merging_afterwards_leaves_the_figures_out(vit: Any, batches: Batches, tmp_path: Path) -> None:
    result = hf_vbp.prune(vit, batches, BOTH, eval_data=batches)
    hf_vbp.merge_tokens(result.model, 1)
    result.save_pretrained(tmp_path / "pruned", verify=False)
    assert "levers" not in load_results(tmp_path / "pruned")


def seconds(model: nn.Module, now: float) -> float:
    return count_macs(model) * 1e-9


@pytest.mark.processes
def test_the_latency_of_each_lever(vit: Any, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(seconds).install(monkeypatch)
    result = hf_vbp.prune(vit, batches, BOTH, eval_data=batches)
    prepared = hf_vbp.adapters.prepare(vit)
    conditions = [LatencyOptions(batch=size) for size in (1, 16)]
    results = measure_all(prepared, result.model, result.results, conditions, Reporter(quiet=True))
    jsonschema.validate(results, schema())
    assert [row["model"] for row in results["latency"]] == ["dense", "pruned"] * 2
    macs = [count_macs(model) for model in alone(vit, result)]
    for row, own in zip(results["levers"], macs, strict=True):
        assert [one["batch"] for one in row["latency"]] == [1, 16]
        assert "top1" in row
        if row["model"] != "dense":
            assert row["latency"][0]["speedup"] == pytest.approx(macs[0] / own)
    card = str(render_card(make_facts(results, repo_id="me/pruned")))
    assert "| batch 1 (ms) | batch 16 (ms) |" in card
