"""The kinds of real models' outputs, and the whole way from an output to gradients and figures."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.output_distance import ImageNoise, OutputDistance, detect_kind
from tests.output_distance.tiny_models import TABLE, clip, dpt, siglip, vit


def table_of(distance: OutputDistance) -> dict[str, str]:
    return {
        part.name: part.kind.value + ("" if part.reading == "whole" else f" of {part.reading}")
        for part in distance.parts
    }


def built(name: str) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    model, inputs = TABLE[name][0]()
    with torch.no_grad():
        # Some families start from weights so small that the output would be constant.
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval(), inputs


def run(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    # Masked autoencoders shuffle.
    torch.manual_seed(7)
    return model(**inputs, **options)


def with_random_banks(distance: OutputDistance, output: Any) -> OutputDistance:
    found = distance.values(output)
    return distance.with_banks({n: torch.randn(6, found[n].shape[1]) for n in distance.without_bank})


@pytest.mark.parametrize("name", TABLE)
def test_kinds_of_real_models(name: str) -> None:
    model, inputs = built(name)
    expected = TABLE[name][1]
    output = run(model, inputs)
    distance = detect_kind(output, model.config, type(model).__name__)
    assert table_of(distance) == expected

    distance = with_random_banks(distance, output)
    v = distance.cotangents(output, ImageNoise(0, [0, 1]))
    assert {n: value.shape for n, value in v.items()} == {n: x.shape for n, x in distance.values(output).items()}
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(distance.inner_product(output, v), weights, allow_unused=True)
    norms = [float(g.norm()) for g in gradients if g is not None]
    assert all(norm < float("inf") for norm in norms)
    assert max(norms) > 0

    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        same = distance.distances(output, output)
        found = distance.distances(output, run(moved, inputs))
    assert float(same["distance"].max()) == 0
    assert same["distance"].shape == (2,)
    assert float(found["distance"].min()) > 0


@pytest.mark.parametrize(
    "name",
    [
        "ViTForImageClassification",
        "SegformerForSemanticSegmentation",
        "DPTForDepthEstimation",
        "VitPoseForPoseEstimation",
        "ViTModel",
        "ViTModel, no pooler",
        "Dinov2Backbone",
        "CLIPVisionModelWithProjection",
        "ViTForMaskedImageModeling",
    ],
)
def test_tuples_are_as_good_as_mappings(name: str) -> None:
    model, inputs = built(name)
    with torch.no_grad():
        output, values = run(model, inputs), run(model, inputs, return_dict=False)
    distance = detect_kind(values, model.config, type(model).__name__)
    assert table_of(distance) == table_of(detect_kind(output, model.config, type(model).__name__))
    distance = with_random_banks(distance, values)
    assert distance.distances(output, values)["distance"].tolist() == [0.0, 0.0]


def test_a_loss_in_the_output_does_not_count() -> None:
    model, inputs = vit("ViTForImageClassification")()
    labels = torch.tensor([0, 1])
    for options in ({}, {"return_dict": False}):
        distance = detect_kind(run(model, inputs, labels=labels, **options), model.config, type(model).__name__)
        assert table_of(distance) == {"logits": "logits"}


@pytest.mark.parametrize(("build", "kind"), [(clip, "logits"), (siglip, "multi_label")])
def test_dual_encoders_with_fixed_texts(build: Any, kind: str) -> None:
    model, inputs = build()
    with torch.no_grad():
        output = run(model.eval(), inputs)
    distance = detect_kind(output, model.config, type(model).__name__, fixed_texts=True)
    assert table_of(distance) == {"logits_per_image": kind}


def test_configs_may_be_dicts() -> None:
    output = {"logits": torch.zeros(2, 3)}
    config = {"problem_type": "multi_label_classification"}
    assert table_of(detect_kind(output, config, "ViTForImageClassification")) == {"logits": "multi_label"}


def test_unknown_outputs_are_named() -> None:
    output = {"keypoints": torch.zeros(2, 3, 4), "descriptors": (torch.zeros(1), torch.zeros(1))}
    with pytest.raises(
        UnsupportedModelError, match=r"Odd is not known.*keypoints \(2, 3, 4\), descriptors \(2 tensor"
    ):
        detect_kind(output, None, "Odd")
    with pytest.raises(UnsupportedModelError, match=r"logits \(2, 3, 4\)"):
        detect_kind({"logits": torch.zeros(2, 3, 4)}, None, "Odd")
    with pytest.raises(UnsupportedModelError, match="return_dict=True"):
        detect_kind((torch.zeros(2, 3),), None, "Odd")
    with pytest.raises(UnsupportedModelError, match="it returned no tensors"):
        detect_kind({"loss": torch.zeros(())}, None, "Odd")


def test_problem_types_that_are_wrong_are_refused() -> None:
    output = {"logits": torch.zeros(2, 3)}
    with pytest.raises(ConfigurationError, match="'ranking'; expected one of single_label"):
        detect_kind(output, {"problem_type": "ranking"}, "ViTForImageClassification")
    output = {"logits": torch.zeros(2, 1)}
    with pytest.raises(ConfigurationError, match="one output"):
        detect_kind(output, {"problem_type": "single_label_classification"}, "ViTForImageClassification")


def test_constant_depth_is_refused() -> None:
    model, inputs = dpt()
    torch.nn.init.constant_(model.head.head[-2].bias, -100.0)
    torch.nn.init.zeros_(model.head.head[-2].weight)
    output = run(model.eval(), inputs)
    distance = detect_kind(output, model.config, type(model).__name__)
    with pytest.raises(ArithmeticError, match="same value everywhere"):
        distance.cotangents(output, ImageNoise(0, [0, 1]))


def test_the_documentation_shows_this_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "output_distance.md").read_text(encoding="utf-8")
    rows = text.split("| class | parts |\n|---|---|\n")[1].strip().splitlines()
    expected = [
        f"| {name} | " + ", ".join(f"`{part}`: {kind}" for part, kind in parts.items()) + " |"
        for name, (_, parts) in TABLE.items()
    ]
    assert rows == expected


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "output_distance.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    assert set(scope["figures"]) == {"distance", "kl", "agreement"}
    assert scope["dense"].vit.embeddings.cls_token.grad.abs().max() > 0
