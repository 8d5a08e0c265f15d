"""Models that keep tensors of an earlier pass (the attention biases of LeViT) are copied and pruned as others."""

from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.costs.counts import count_macs
from hf_vbp.costs.latency import LatencyOptions, measure_latency
from hf_vbp.distillation.teacher import Teacher
from hf_vbp.modeling.shared_copy import copy_model
from tests.families.running import BY_NAME

FAMILY = BY_NAME["LevitForImageClassification"]
BATCHES = [FAMILY.batch(2), FAMILY.batch(2, 0, 2)]
BEST, PAPER = hf_vbp.VBPConfig(ratio=0.3), hf_vbp.VBPConfig.preset("paper", ratio=0.3)
SNIP = hf_vbp.VBPConfig(ratio=0.3, criterion="snip")


def caches(model: Any) -> list[dict[str, torch.Tensor]]:
    return [module.attention_bias_cache for module in model.modules() if hasattr(module, "attention_bias_cache")]


def make(*, used: bool, switched: bool = False) -> Any:
    """A model that ran with gradients, or not at all."""
    model = FAMILY.build()
    for cache in caches(model):
        cache.clear()
    if used:
        model(**BATCHES[0])
        if switched:
            model.train()
            model.eval()
            model(**BATCHES[0])
        assert not any(value.is_leaf for cache in caches(model) for value in cache.values())
    return model


@pytest.mark.parametrize("config", [BEST, PAPER, SNIP], ids=["best", "paper", "snip"])
def test_a_model_that_ran_with_gradients_is_pruned_as_a_new_one(config: hf_vbp.VBPConfig) -> None:
    used = make(used=True)
    kept = [dict(cache) for cache in caches(used)]
    expected = hf_vbp.prune(make(used=False), BATCHES, config).model.state_dict()
    found = hf_vbp.prune(used, BATCHES, config).model
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    for cache, before in zip(caches(used), kept, strict=True):
        assert all(cache[key] is value for key, value in before.items())
    # Neither the model nor the result keeps a graph of the pass.
    copy_model(found)
    assert all(value.is_leaf for cache in caches(found) for value in cache.values())


@pytest.mark.parametrize("criterion", ["obs", "snip"])
def test_a_pass_leaves_no_graph_in_the_model(criterion: str) -> None:
    model = make(used=False)
    hf_vbp.collect_statistics(model, BATCHES, hf_vbp.VBPConfig(ratio=0.3, criterion=criterion))
    assert all(value.is_leaf for cache in caches(model) for value in cache.values())


def test_after_switches_of_the_mode_and_in_place(tmp_path: Path) -> None:
    result = hf_vbp.prune(make(used=True, switched=True), BATCHES, PAPER, inplace=True)
    result.model(**BATCHES[0])
    result.save_pretrained(tmp_path / "small", verify=False)
    again = hf_vbp.prune(result.model, BATCHES, PAPER)
    assert sum(again.plan.widths) < sum(result.plan.widths)


def test_copies_in_another_dtype() -> None:
    """The kept tensors have the dtype of the pass that made them."""
    model = make(used=True)
    logits = Teacher(model, device=torch.device("cpu"), dtype="bfloat16")(**BATCHES[0])
    assert logits.isfinite().all()
    options = LatencyOptions(dtype="bfloat16", threads=1, precision=0.9, repetitions=8)
    (row,) = measure_latency({"dense": model}, options, inputs=FAMILY.batch(1))
    assert row["dtype"] == "bfloat16"
    assert all(value.dtype == torch.float32 for cache in caches(model) for value in cache.values())


@pytest.mark.parametrize("used", [False, True])
def test_counting_leaves_nothing_in_the_model(used: bool) -> None:
    """The pass that counts has tensors without values, which the next pass would find."""
    model = make(used=used)
    kept = [dict(cache) for cache in caches(model)]
    attributes = [dict(vars(module)) for module in model.modules()]
    assert count_macs(model) > 0
    for module, before in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == before.keys()
        assert all(vars(module)[name] is value for name, value in before.items())
    for cache, before in zip(caches(model), kept, strict=True):
        assert cache.keys() == before.keys()
        assert all(cache[key] is value for key, value in before.items())
    with torch.no_grad():
        assert model(**BATCHES[0]).logits.isfinite().all()


def test_graphs_in_containers_are_left_out() -> None:
    model = torch.nn.Linear(2, 2)
    made = model.weight * 2
    model.kept = {"a": [made, (made, "b")], "c": 1}  # type: ignore[assignment]
    copied: Any = copy_model(model)
    assert torch.equal(copied.kept["a"][0], made)
    assert copied.kept["a"][1][0].is_leaf
    assert (copied.kept["a"][1][1], copied.kept["c"]) == ("b", 1)
    assert model.kept["a"][0] is made  # type: ignore[index]
