"""MACs of models that merge tokens, against a closed form."""

import copy
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.counts import count_macs, describe_cost
from hf_vbp.costs.widths import width_costs
from hf_vbp.token_merging.schedules import ConstantSchedule, FallingSchedule
from hf_vbp.workflow.describe import with_merging
from tests.costs.test_costs import on_meta, vit_macs

from .models import make


def merged_macs(counts: list[int], widths: list[int], *, tokens: int, width: int, head: int, patch: int) -> int:
    """A ViT without its classifier: embedding, attention and MLP of each block, and the similarities of the keys."""
    total = (tokens - 1) * 3 * patch**2 * width
    for count, hidden in zip(counts, widths, strict=True):
        patches = tokens - 1
        merged = min(count, patches // 2)
        if merged:
            total += (patches // 2) * (patches - patches // 2) * head
        tokens -= merged
        total += 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * hidden
    return total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("counts", [[0, *[8] * 11], [0, *[15] * 11], [0, 150, *[3] * 10], [0] * 12])
def test_macs_of_deit_tiny_follow_the_closed_form(counts: list[int], attention: str) -> None:
    model = on_meta(192, 3, 768, attn_implementation=attention)
    hf_vbp.merge_tokens(model, counts)
    expected = merged_macs(counts, [768] * 12, tokens=197, width=192, head=64, patch=16) + 192 * 1000
    assert count_macs(model) == expected


def test_without_merging_the_closed_form_is_that_of_a_vit() -> None:
    expected = merged_macs([0] * 12, [768] * 12, tokens=197, width=192, head=64, patch=16) + 192 * 1000
    assert expected == vit_macs(197, 192, 768, 12, 16, 1000)


def test_widths_and_merging_together(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    pruned = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.4)).model
    before = describe_cost(pruned)
    hf_vbp.merge_tokens(pruned, [0, 5, 4])
    after = describe_cost(pruned)
    widths = pruned.config.vbp["widths"]
    assert after["macs"] == merged_macs([0, 5, 4], widths, tokens=17, width=32, head=16, patch=8) + 32 * 5
    assert (after["parameters"], after["bytes"]) == (before["parameters"], before["bytes"])


@pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2ForImageClassification", "SiglipVisionModel"])
def test_closed_form_of_the_widths_counts_the_tokens_that_are_left(name: str) -> None:
    model = make(name)
    hf_vbp.merge_tokens(model, [0, 6, 4])
    costs = width_costs(prepare(model))
    assert costs.dense["macs"] == count_macs(model)
    fewer = [width - 3 * index for index, width in enumerate(costs.widths, 1)]
    pruned = copy.deepcopy(model)
    from hf_vbp.modeling.modeling_hf_vbp import find_mlps, resize

    assert resize(pruned, fewer)
    assert [mlp.width for mlp in find_mlps(pruned)] == fewer
    assert costs.of(fewer)["macs"] == count_macs(pruned)


def test_results_count_the_cost_on_the_images_of_the_dense_model(
    vit: Any, batches: list[dict[str, torch.Tensor]]
) -> None:
    result = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.4))
    larger = {"pixel_values": torch.randn(1, 3, 64, 64), "interpolate_pos_encoding": True}
    hf_vbp.merge_tokens(result.model, [0, 5, 4])
    described = with_merging(result.results, result.model, larger)
    widths = result.model.config.vbp["widths"]
    expected = merged_macs([0, 5, 4], widths, tokens=65, width=32, head=16, patch=8) + 32 * 5
    assert described["cost"]["pruned"]["macs"] == expected
    assert described["cost"]["dense"] == result.results["cost"]["dense"]
    assert described["merged_tokens"] == [0, 5, 4]


def test_falling_schedule_is_cheaper_than_the_constant_one() -> None:
    model = on_meta(192, 3, 768)
    found = []
    for schedule in (ConstantSchedule(8), FallingSchedule(8)):
        hf_vbp.merge_tokens(model, schedule)
        found.append(count_macs(model))
    assert found[1] < found[0]
