"""Models that accelerate prepared for mixed precision, and autocast regions, against the plain model."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import hf_vbp
from hf_vbp.checkpoint.reference_outputs import reference_outputs
from hf_vbp.distillation.teacher import Teacher
from hf_vbp.evaluation import evaluate_models
from hf_vbp.modeling.precision import forward_of_class, own_precision, remove_autocast_wrapper
from tests.conftest import make_model

CONFIG = hf_vbp.VBPConfig(ratio=0.5)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(pixel_values=images()).logits
    return found


def prepared(accelerator: Accelerator, model: Any, how: str) -> Any:
    model = accelerator.prepare(model)
    if how == "twice":
        model = accelerator.prepare(model)
    return accelerator.unwrap_model(model, keep_fp32_wrapper=False) if how == "unwrapped" else model


HOW = ["prepared", "twice", "unwrapped"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("region", [False, True])
def test_reference_outputs_are_those_of_the_plain_model(
    accelerator: Accelerator, vit: Any, how: str, region: bool
) -> None:
    expected = logits(vit)
    model = prepared(accelerator, copy.deepcopy(vit), how)
    before = {name: id(value) for name, value in vars(model).items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=region):
        assert torch.equal(reference_outputs(model, {"pixel_values": images()})["logits"], expected)
        assert torch.is_autocast_enabled("cpu") is region
    assert {name: id(value) for name, value in vars(model).items()} == before
    if how != "unwrapped":
        assert not torch.equal(logits(model), expected), "the wrapper is back, and computes in bfloat16"


def test_reference_outputs_ignore_a_forward_that_a_checkpoint_does_not_hold(vit: Any) -> None:
    expected = logits(vit)
    layer = vit.vit.layers[1].mlp
    layer.forward = lambda hidden: torch.zeros_like(hidden)
    assert torch.equal(reference_outputs(vit, {"pixel_values": images()})["logits"], expected)
    assert not torch.equal(logits(vit), expected)
    with forward_of_class(vit), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert "forward" in vars(layer)


def test_reference_outputs_do_not_use_reduced_float32(vit: Any) -> None:
    backend: Any = torch.backends.mkldnn.matmul
    seen, before = [], backend.fp32_precision
    vit.register_forward_hook(lambda *_: seen.append(backend.fp32_precision))
    backend.fp32_precision = "bf16"
    try:
        reference_outputs(vit, {"pixel_values": images()})
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before
    assert seen == ["ieee"]


@pytest.mark.parametrize("device_type", ["cpu", "cuda", "xpu", "mps"])
def test_autocast_is_off_for_every_device_type(device_type: str) -> None:
    enabled = torch.is_autocast_enabled(device_type)
    torch.set_autocast_enabled(device_type, True)
    try:
        with own_precision():
            assert not torch.is_autocast_enabled(device_type)
        assert torch.is_autocast_enabled(device_type)
    finally:
        torch.set_autocast_enabled(device_type, enabled)


@pytest.mark.parametrize("how", HOW[:2])
def test_the_wrapper_is_removed_and_the_forward_of_the_class_is_back(
    accelerator: Accelerator, vit: Any, how: str
) -> None:
    expected = logits(vit)
    model = prepared(accelerator, vit, how)
    remove_autocast_wrapper(model)
    assert not {"forward", "_original_forward"} & vars(model).keys()
    assert torch.equal(logits(model), expected)
    # accelerate's own unwrapping loses the decorators of transformers.
    assert isinstance(model(pixel_values=images(), return_dict=False), tuple)


def test_a_forward_that_a_user_assigned_is_kept(accelerator: Accelerator, vit: Any) -> None:
    calls = []

    def forward(**inputs: Any) -> Any:
        calls.append(torch.is_autocast_enabled("cpu"))
        return type(vit).forward(vit, **inputs)

    vit.forward = forward
    model = accelerator.prepare(vit)
    with own_precision(model):
        logits(model)
    logits(model)
    remove_autocast_wrapper(model)
    assert vars(model)["forward"] is forward
    logits(model)
    assert calls == [False, True, False]


@pytest.mark.parametrize("how", HOW[:2])
def test_a_pruned_copy_is_a_plain_model_with_the_same_plan(
    accelerator: Accelerator, vit: Any, batches: list[Any], how: str
) -> None:
    expected = hf_vbp.prune(copy.deepcopy(vit), batches, CONFIG)
    model = prepared(accelerator, vit, how)
    with torch.autocast("cpu", torch.bfloat16):
        result = hf_vbp.prune(model, batches, CONFIG)
    assert not {"forward", "_original_forward"} & vars(result.model).keys()
    assert result.plan.to_json() == expected.plan.to_json()
    assert torch.equal(logits(result.model), logits(expected.model))
    assert "_original_forward" in vars(model)


def test_pruning_in_place_keeps_the_wrapper_of_the_model(
    accelerator: Accelerator, vit: Any, batches: list[Any]
) -> None:
    expected = hf_vbp.prune(copy.deepcopy(vit), batches, CONFIG)
    model = accelerator.prepare(vit)
    result = hf_vbp.prune(model, batches, CONFIG, inplace=True)
    assert result.model is model
    assert torch.equal(reference_outputs(model, {"pixel_values": images()})["logits"], logits(expected.model))


def test_statistics_are_those_of_the_plain_model(accelerator: Accelerator, vit: Any, batches: list[Any]) -> None:
    expected = hf_vbp.collect_statistics(copy.deepcopy(vit), batches)
    model = accelerator.prepare(vit)
    with torch.autocast("cpu", torch.bfloat16):
        found = hf_vbp.collect_statistics(model, batches)
    for site, other in zip(found.sites, expected.sites):
        assert torch.equal(site.moments.m2, other.moments.m2)


def test_figures_are_those_of_the_plain_model(accelerator: Accelerator, vit: Any, batches: list[Any]) -> None:
    other = make_model("vit", seed=4)
    expected = evaluate_models({"dense": other, "pruned": copy.deepcopy(vit)}, batches)
    model = accelerator.prepare(vit)
    with torch.autocast("cpu", torch.bfloat16):
        found = evaluate_models({"dense": other, "pruned": model}, batches)
    assert found == expected


def test_a_teacher_computes_in_its_own_dtype(accelerator: Accelerator, vit: Any) -> None:
    expected = logits(vit)
    model = accelerator.prepare(vit)
    assert torch.equal(Teacher(model, device=torch.device("cpu"))(images()), expected)


def test_a_copy_for_plain_transformers_is_a_plain_model(
    accelerator: Accelerator, vit: Any, batches: list[Any], tmp_path: Path
) -> None:
    pruned = accelerator.prepare(hf_vbp.prune(vit, batches, CONFIG).model)
    stock = hf_vbp.pad_to_uniform_width(pruned)
    assert not {"forward", "_original_forward"} & vars(stock).keys()
    assert torch.allclose(logits(stock), reference_outputs(pruned, {"pixel_values": images()})["logits"], atol=1e-5)
