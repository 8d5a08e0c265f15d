"""Parameters and MACs against closed forms."""

import copy
from typing import Any

import pytest
import torch
import transformers

from hf_vbp.costs import counts as costs
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.inputs.example import example_batch
from tests.conftest import make_model


def vit_macs(tokens: int, width: int, hidden: int, blocks: int, patch: int, classes: int) -> int:
    """The closed form: patch embedding, four projections, two attention products, two MLP linears, classifier."""
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    mlp = 2 * tokens * width * hidden
    return (tokens - 1) * 3 * patch**2 * width + blocks * (attention + mlp) + width * classes


def on_meta(width: int, heads: int, hidden: int, **options: Any) -> Any:
    config = transformers.ViTConfig(
        hidden_size=width, num_attention_heads=heads, intermediate_size=hidden, num_labels=1000, **options
    )
    with torch.device("meta"):
        return transformers.ViTForImageClassification(config)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12)])
def test_macs_of_deit_sizes_follow_the_closed_form(width: int, heads: int) -> None:
    assert costs.count_macs(on_meta(width, heads, 4 * width)) == vit_macs(197, width, 4 * width, 12, 16, 1000)


def test_figures_of_the_paper_for_deit_base() -> None:
    # Table of section 3.2. The paper's counter adds some element-wise work, ours does not: 0.1 %.
    dense, pruned = on_meta(768, 12, 3072), on_meta(768, 12, round(3072 * 0.45))
    assert costs.count_parameters(dense) == pytest.approx(86.57e6, abs=5e3)
    assert costs.count_parameters(pruned) == pytest.approx(55.40e6, abs=5e3)
    assert costs.count_macs(dense) == pytest.approx(17.58e9, rel=2e-3)
    assert costs.count_macs(pruned) == pytest.approx(11.44e9, rel=2e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_macs_do_not_depend_on_how_attention_is_computed(attention: str) -> None:
    assert costs.count_macs(on_meta(192, 3, 768, attn_implementation=attention)) == vit_macs(
        197, 192, 768, 12, 16, 1000
    )


def test_the_real_shapes_count_not_the_config(vit: Any) -> None:
    from torch import nn

    from hf_vbp.adapters.registry import find_sites

    before = costs.describe_cost(vit)
    site = find_sites(vit)[1]
    site.fc1.weight = nn.Parameter(site.fc1.weight[:10].detach().clone())
    site.fc1.bias = nn.Parameter(site.fc1.bias[:10].detach().clone())
    site.fc2.weight = nn.Parameter(site.fc2.weight[:, :10].detach().clone())
    after = costs.describe_cost(vit)
    assert before["parameters"] - after["parameters"] == 38 * (32 + 32 + 1)
    assert before["macs"] - after["macs"] == 17 * 38 * 64  # 16 patches and the class token
    assert before["bytes"] - after["bytes"] == 4 * 38 * 65


def test_counting_does_not_change_the_model(vit: Any) -> None:
    vit.train()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    costs.describe_cost(vit)
    assert vit.training
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())
    assert not any(module._forward_hooks for module in vit.modules())


def test_bytes_follow_the_dtype_and_shared_tensors_count_once(vit: Any) -> None:
    size = costs.count_bytes(vit)
    assert costs.count_bytes(copy.deepcopy(vit).bfloat16()) * 2 == size
    vit.classifier_again = vit.classifier
    assert costs.count_bytes(vit) == size
    assert costs.count_macs(make_model("deit-teacher")) > 0


def test_a_model_without_a_config() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear has no config"):
        costs.count_macs(torch.nn.Linear(2, 2))


def test_images_may_be_oblong(vit: Any) -> None:
    vit.config.image_size = (32, 16)
    assert example_batch(vit, 2)["pixel_values"].shape == (2, 3, 32, 16)


def test_the_cost_of_widths_is_that_of_the_built_model(vit: Any) -> None:
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.costs.latency import with_widths
    from hf_vbp.costs.widths import width_costs

    prepared = prepare(vit.bfloat16())
    closed = width_costs(prepared)
    for widths in ([48, 48, 48], [48, 10, 1], [1, 1, 1]):
        assert closed.of(widths) == costs.describe_cost(with_widths(prepared, widths))
    assert closed.share("macs", [48, 48, 48]) == 1
