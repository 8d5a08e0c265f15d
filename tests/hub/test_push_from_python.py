"""Models that were pruned, evaluated and saved from Python are pushed like those of the command line."""

from pathlib import Path
from typing import Any

import torch
from transformers import ViTImageProcessor

import hf_vbp
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
