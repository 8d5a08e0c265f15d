"""Models that were pruned, evaluated and saved from Python are pushed like those of the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTImageProcessor

import hf_vbp
from hf_vbp.adapters.linear_pair import LinearPairAdapter
from hf_vbp.errors import CheckpointError
from hf_vbp.hub.preflight import check_widths
from tests.hub.helpers import Client
from tests.loopback_hub import LoopbackHub


def test_parts_with_evaluation_are_pushed_with_their_card(
    client: Client, xet_hub: LoopbackHub, tmp_path: Path, vit: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    config = hf_vbp.VBPConfig(ratio=0.5)
    statistics = hf_vbp.collect_statistics(vit, batches, config)
    plan = hf_vbp.make_plan(vit, statistics, config)
    pruned = hf_vbp.apply_plan(vit, plan, statistics)
    result = hf_vbp.evaluate(hf_vbp.PruningResult.from_parts(vit, pruned, plan, statistics), batches)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    hf_vbp.save_checkpoint(result, tmp_path / "pruned", processor=processor)
    answer = client.push(tmp_path / "pruned", "alice/parts", base_model="alice/base-vit")
    assert answer["status"] == "pushed", answer
    card = xet_hub.repositories["alice/parts"].files()["README.md"].decode()
    top1 = result.results["evaluation"]["pruned"]["top1"]
    assert "top-1" in card
    assert f"value: {top1:.4f}"[:10] in card or f"{100 * top1:.1f}" in card


def test_a_model_of_which_some_mlps_were_pruned_is_pushed_and_audited(
    client: Client,
    xet_hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vit: Any,
    batches: list[dict[str, torch.Tensor]],
) -> None:
    monkeypatch.setattr("hf_vbp.adapters.registry._ADAPTERS", {"vit": LinearPairAdapter(blocks=r"layers\.[02]$")})
    result = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig.preset("paper", ratio=0.5))
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    result.save_pretrained(tmp_path / "pruned", processor=processor)
    first, last = result.plan.widths
    assert result.model.config.vbp["widths"] == [first, 48, last]
    answer = client.push(tmp_path / "pruned", "alice/partly", base_model="alice/base-vit")
    assert answer["status"] == "pushed", answer
    audited = client.ask("audit", repo_id="alice/partly", options={"check_load": False})
    assert audited["passed"], audited
    assert "config, weights and results agree" in str(audited["lines"])


def test_a_model_that_merges_tokens_is_pushed_audited_and_merges_again(
    client: Client, xet_hub: LoopbackHub, tmp_path: Path, vit: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    result = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.5))
    hf_vbp.merge_tokens(result.model, [0, 5, 3])
    result = hf_vbp.evaluate(result, batches)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    result.save_pretrained(tmp_path / "merged", processor=processor)
    answer = client.push(tmp_path / "merged", "alice/merged", base_model="alice/base-vit")
    assert answer["status"] == "pushed", answer
    assert "merged before each block: 0, 5, 3" in xet_hub.repositories["alice/merged"].files()["README.md"].decode()
    audited = client.ask("audit", repo_id="alice/merged", options={"check_load": True})
    assert audited["passed"], audited


@pytest.mark.parametrize(
    ("widths", "dense_widths", "measured", "passes"),
    [
        ([10, 48, 20], [48, 48, 48], [10, 20], True),
        ([10, 48, 48], [48, 48, 48], [10, 48], True),
        # The pruned MLP is the one that had another width before.
        ([24, 24, 9], [24, 48, 48], [24, 9], True),
        ([10, 20, 48], [48, 48, 48], [20, 10], False),
        ([10, 30, 20], [48, 48, 48], [10, 20], False),
        ([10, 48, 20], [48, 48, 48], [10, 20, 48], False),
        ([10, 48, 20], [48, 48, 48], [11, 20], False),
        ([10, 48, 20], [48, 48], [10, 20], False),
        ([10, 48, 20], None, [10, 20], False),
        ([10, "48", 20], [48, "48", 48], [10, 20], False),
        ([10, [48], 20], [48, [48], 48], [10, 20], False),
        ("104820", "484848", [10, 20], False),
        ([10, 48, 20], [48, 48, 48], [10, 48, 20, 48], False),
    ],
)
def test_mlps_that_were_not_pruned_have_their_dense_width(
    widths: Any, dense_widths: Any, measured: list[int], passes: bool
) -> None:
    shapes: list[Any] = [shape for width in widths for shape in ((width, 32), (32, width))]
    arguments = {"vbp": {"widths": widths, "dense_widths": dense_widths}}, {"plan": {"widths": measured}}, shapes
    if passes:
        check_widths(*arguments)
        with pytest.raises(CheckpointError, match="fewer matrices of that width"):
            check_widths(*arguments[:2], shapes[2:])
    else:
        with pytest.raises(CheckpointError, match="not of one checkpoint"):
            check_widths(*arguments)
