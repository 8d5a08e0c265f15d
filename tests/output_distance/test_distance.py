"""The distance of whole outputs: sums over tensors, readings, masks and banks."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.output_distance import BANK_SIZE, ImageNoise, OutputDistance, OutputKind, OutputPart, detect_kind

DETECTOR = OutputDistance(
    (
        OutputPart("logits", OutputKind.LOGITS, "logits"),
        OutputPart("pred_boxes", OutputKind.BOXES, "pred_boxes", weight=4.0),
    ),
    "Detector",
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def detector(x: Tensor) -> dict[str, Tensor]:
    """A detector of two queries whose inputs are ``(images, 3)``."""
    return {
        "logits": torch.tanh(x @ normal(3, 8, seed=7)).unflatten(1, (2, 4)),
        "pred_boxes": torch.sin(x @ normal(3, 8, seed=8)).unflatten(1, (2, 4)),
    }


def test_gradients_have_the_second_derivative_of_the_sum() -> None:
    draws, x = 20_000, normal(1, 3)

    def distance(moved: Tensor) -> Tensor:
        return DETECTOR.distances(detector(x), detector(moved.view_as(x)))["distance"].sum()

    expected = torch.autograd.functional.hessian(distance, x.flatten())
    many = x.repeat(draws, 1).requires_grad_()
    output = detector(many)
    v = DETECTOR.cotangents(output, ImageNoise(0, range(draws)))
    (g,) = torch.autograd.grad(DETECTOR.inner_product(output, v), many)
    scale = expected.diagonal()
    error = ((scale[:, None] * scale + expected.square()) / draws).sqrt()
    assert ((g.T @ g / draws - expected).abs() <= 5 * error).all()


def test_parts_are_named_and_weighted() -> None:
    dense, pruned = detector(normal(2, 3)), detector(normal(2, 3, seed=1))
    found = DETECTOR.distances(dense, pruned)
    assert set(found) == {
        "distance",
        "logits.distance",
        "logits.kl",
        "logits.agreement",
        "pred_boxes.distance",
        "pred_boxes.squared_error",
    }
    torch.testing.assert_close(found["distance"], found["logits.distance"] + 4 * found["pred_boxes.distance"])
    single = replace(DETECTOR, parts=DETECTOR.parts[:1])
    assert set(single.distances(dense, pruned)) == {"distance", "kl", "agreement"}


def test_a_weight_scales_the_second_moment() -> None:
    single = replace(DETECTOR, parts=DETECTOR.parts[1:])
    plain = replace(DETECTOR, parts=(replace(DETECTOR.parts[1], weight=1.0),))
    output, noise = detector(normal(2, 3)), ImageNoise(0, [0, 1])
    v, w = single.cotangents(output, noise)["pred_boxes"], plain.cotangents(output, noise)["pred_boxes"]
    torch.testing.assert_close(v, 2 * w)


def test_tensors_have_independent_noise() -> None:
    parts = tuple(OutputPart(name, OutputKind.REGRESSION, name) for name in ("a", "b"))
    v = OutputDistance(parts).cotangents(
        {"a": torch.zeros(500, 9), "b": torch.zeros(500, 9)}, ImageNoise(0, range(500))
    )
    assert abs(float((v["a"] * v["b"]).mean())) < 4 / 4500**0.5


def test_gradients_reach_a_model_in_half_precision() -> None:
    x = torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True)
    single = OutputDistance((OutputPart("logits", OutputKind.LOGITS, "logits"),))
    output = {"logits": x * 2}
    v = single.cotangents(output, ImageNoise(0, [0, 1]))
    (g,) = torch.autograd.grad(single.inner_product(output, v), x)
    torch.testing.assert_close(g, (2 * v["logits"]).bfloat16())


@pytest.mark.parametrize("reading", ["first_token", "mean_of_tokens"])
def test_readings_of_tokens(reading: str) -> None:
    part = OutputPart("tokens", OutputKind.EMBEDDINGS, "tokens", reading=reading)  # type: ignore[arg-type]
    distance, tokens = OutputDistance((part,)), normal(3, 5, 4)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    found = distance.values({"tokens": tokens}, {"tokens": mask})["tokens"]
    expected = [row[:1] if reading == "first_token" else row[keep] for row, keep in zip(tokens, mask)]
    torch.testing.assert_close(found, torch.stack([row.mean(0) for row in expected]))
    padded = torch.where(mask[..., None], tokens, torch.nan).requires_grad_()
    output = {"tokens": padded}
    v = distance.cotangents(output, ImageNoise(0, [0, 1, 2]), {"tokens": mask})
    (g,) = torch.autograd.grad(distance.inner_product(output, v, {"tokens": mask}), padded)
    assert (g[~mask] == 0).all()
    assert g.isfinite().all()


def test_masked_logits_that_are_infinite_give_finite_gradients() -> None:
    single = OutputDistance((OutputPart("logits", OutputKind.LOGITS, "logits"),))
    x = normal(1, 3, 4).requires_grad_()
    output = {"logits": torch.cat([x, torch.full((1, 2, 4), -torch.inf)], 1)}
    mask = {"logits": torch.tensor([[True] * 3 + [False] * 2])}
    v = single.cotangents(output, ImageNoise(0, [0]), mask)
    (g,) = torch.autograd.grad(single.inner_product(output, v, mask), x)
    torch.testing.assert_close(g, v["logits"][:, :3])
    assert single.distances(output, output, mask)["distance"].tolist() == [0.0]


def test_banks_are_set_from_features() -> None:
    distance = detect_kind({"last_hidden_state": normal(2, 5, 4)}, {"model_type": "vit"}, "ViTModel")
    assert distance.without_bank == ("last_hidden_state",)
    output = {"last_hidden_state": normal(2, 5, 4)}
    with pytest.raises(ConfigurationError, match="no bank is set"):
        distance.cotangents(output, ImageNoise(0, [0, 1]))
    with pytest.raises(ConfigurationError, match="for last_hidden_state"):
        distance.with_banks({})
    with pytest.raises(ConfigurationError, match="501"):
        distance.with_banks({"last_hidden_state": normal(BANK_SIZE + 1, 4)})
    features = distance.values({"last_hidden_state": normal(BANK_SIZE, 5, 4, seed=3)})
    ready = distance.with_banks(features, range(BANK_SIZE))
    assert ready.without_bank == ()
    assert ready.cotangents(output, ImageNoise(0, [0, 1]))["last_hidden_state"].shape == (2, 4)
    assert set(ready.distances(output, output, images=[0, 1])) == {
        "distance",
        "neighbor_kl",
        "neighbor_agreement",
        "cosine_distance",
    }


def test_outputs_of_another_run_must_hold_the_same_parts() -> None:
    output = detector(normal(2, 3))
    with pytest.raises(UnsupportedModelError, match=r"Detector returned logits \(2, 2, 4\); expected.*pred_boxes"):
        DETECTOR.values({"logits": output["logits"]})
    with pytest.raises(ConfigurationError, match="a mask for boxes, but the output has the parts logits, pred_boxes"):
        DETECTOR.cotangents(output, ImageNoise(0, [0, 1]), {"boxes": torch.ones(2, 2) > 0})


def test_transformers_is_not_imported() -> None:
    script = "import sys, hf_vbp.output_distance; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
