"""The output metric against gradients taken image by image."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.hooked_model import draw_labels
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, NonFiniteError, UnsupportedModelError
from tests.calibration.helpers import DIAGONAL, METRIC, images, in_batches
from tests.conftest import make_model
from tests.output_distance.tiny_models import clipseg


def keep_output(outputs: list[torch.Tensor], module: Any, inputs: Any, output: torch.Tensor) -> None:
    outputs.append(output)


def brute_force(model: Any, values: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return ``E[g g^T]`` of every site, from one backward pass an image with all parameters thawed."""
    sites = find_sites(model)
    sums = [torch.zeros(site.hidden_size, site.hidden_size, dtype=torch.float64) for site in sites]
    tokens = 0
    for index, image in enumerate(values):
        outputs: list[torch.Tensor] = []
        keep = partial(keep_output, outputs)
        handles = [site.fc2.register_forward_hook(keep) for site in sites]
        logits = model(pixel_values=image[None]).logits
        for handle in handles:
            handle.remove()
        label = draw_labels(logits, range(index, index + 1), seed)
        gradients = torch.autograd.grad(-torch.nn.functional.cross_entropy(logits, label), outputs)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient[0].double().T @ gradient[0].double()
        tokens += gradients[0].shape[1]
    return [total / tokens for total in sums]


@pytest.mark.parametrize("kind", ["vit", "deit", "deit-teacher"])
def test_agrees_with_gradients_image_by_image(kind: str) -> None:
    model, values = make_model(kind), images(11)
    statistics = collect_statistics(model, in_batches(values, 4), METRIC, seed=3)
    for site, expected in zip(statistics.sites, brute_force(model, values, 3), strict=True):
        assert site.metric is not None
        assert float((site.metric - expected).abs().max() / expected.abs().max()) < 1e-5
    assert statistics.fingerprints["output_metric"] == {"seed": 3}


def test_the_metric_depends_on_the_seed_and_not_on_batches(vit: Any) -> None:
    values = images(40)
    one = collect_statistics(vit, in_batches(values, 8), METRIC)
    same = collect_statistics(vit, in_batches(values, 8), METRIC)
    other_batches = collect_statistics(vit, in_batches(values, 7), METRIC)
    other_seed = collect_statistics(vit, in_batches(values, 8), METRIC, seed=1)
    for first, second, third, fourth in zip(one.sites, same.sites, other_batches.sites, other_seed.sites, strict=True):
        assert torch.equal(first.metric, second.metric)  # type: ignore[arg-type]
        torch.testing.assert_close(first.metric, third.metric, rtol=1e-4, atol=1e-9)
        assert not torch.allclose(first.metric, fourth.metric, rtol=1e-2)  # type: ignore[arg-type]


def test_the_metric_does_not_change_the_moments(vit: Any) -> None:
    batches = in_batches(images(20), 8)
    without, with_metric = (collect_statistics(vit, batches, requires) for requires in (DIAGONAL, METRIC))
    for first, second in zip(without.sites, with_metric.sites, strict=True):
        torch.testing.assert_close(first.moments.m2, second.moments.m2, rtol=1e-6, atol=0)
        assert first.metric is None


def test_half_precision_does_not_lose_the_gradients() -> None:
    batches = in_batches(images(12), 4)
    reference = collect_statistics(make_model(), batches, METRIC)
    for dtype, tolerance in ((torch.bfloat16, 0.3), (torch.float16, 0.1)):
        found = collect_statistics(make_model(dtype=dtype), batches, METRIC)
        for site, expected in zip(found.sites, reference.sites, strict=True):
            assert site.metric is not None
            assert expected.metric is not None
            assert abs(float(site.metric.trace() / expected.metric.trace()) - 1) < tolerance


def test_gradients_that_are_not_finite_are_named(vit: Any) -> None:
    with torch.no_grad():
        vit.classifier.weight.fill_(3e38)
    with pytest.raises(NonFiniteError, match="gradient of the output"):
        collect_statistics(vit, in_batches(images(3), 3), METRIC)


def test_neighbors_need_a_few_images() -> None:
    with pytest.raises(ConfigurationError, match="the data gave 2: pass at least 3 images"):
        collect_statistics(make_model("vit-backbone"), in_batches(images(2), 2), METRIC)


def test_the_metric_of_a_site_whose_output_is_not_used_is_zero(vit: Any) -> None:
    vit.vit.layers[2].mlp.register_forward_hook(lambda module, inputs, output: output.detach())
    gathered = Requirements(covariances=True, output_metric=True)
    statistics = collect_statistics(vit, in_batches(images(3), 3), gathered)
    assert [bool(site.metric.any()) for site in statistics.sites] == [True, True, False]  # type: ignore[union-attr]
    widths = hf_vbp.make_plan(vit, statistics, hf_vbp.VBPConfig(ratio=0.3)).widths
    # Nearly all of the 43 removed neurons.
    assert widths[2] < 8
    assert min(widths[:2]) > 44


def test_a_tower_that_runs_without_gradients_is_refused_and_can_be_pruned_alone(tmp_path: Path) -> None:
    model, inputs = clipseg()
    batches = [inputs, {**inputs, "pixel_values": inputs["pixel_values"] + 0.5}]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    reason = r"runs clip\.vision\S+ without gradients .*preset\('paper'\).*model\.clip\.vision_model,"
    with pytest.raises(UnsupportedModelError, match=reason):
        hf_vbp.prune(model, batches, hf_vbp.VBPConfig(ratio=0.3))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert hf_vbp.prune(model, batches, hf_vbp.VBPConfig.preset("paper", ratio=0.3)).plan.ratio > 0.25
    pixels = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    hf_vbp.prune(model.clip.vision_model, pixels, hf_vbp.VBPConfig(ratio=0.3, scope="layer"), inplace=True)
    hf_vbp.save_checkpoint(model.eval(), tmp_path / "whole", verify=False)
    loaded = hf_vbp.from_pretrained(tmp_path / "whole", auto_class=type(model)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("criterion", ["obs", "snip"])
def test_some_or_all_sites_without_gradients_are_refused(vit: Any, criterion: str) -> None:
    config = hf_vbp.VBPConfig(ratio=0.3, criterion=criterion)
    layer, batches = vit.vit.layers[1], in_batches(images(3), 3)
    forward, layer.forward = layer.forward, torch.no_grad()(layer.forward)
    with pytest.raises(UnsupportedModelError, match=r"runs vit\.layers\.1\.mlp without gradients"):
        hf_vbp.collect_statistics(vit, batches, config)
    layer.forward = forward
    vit.vit.layernorm.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(UnsupportedModelError, match=r"No gradient of the output of ViTForImageClassification reaches"):
        hf_vbp.collect_statistics(vit, batches, config)


def test_images_that_are_not_finite_are_named_in_a_pass_with_gradients(vit: Any) -> None:
    values = images(3)
    values[1] = float("nan")
    with pytest.raises(NonFiniteError, match="image 1 "):
        collect_statistics(vit, in_batches(values, 3), METRIC)


def test_labels_follow_the_prediction() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    labels = draw_labels(probabilities.log().expand(20_000, 4), range(20_000), 0)
    found = labels.bincount(minlength=4) / 20_000
    torch.testing.assert_close(found, probabilities, rtol=0, atol=0.02)
    assert found[3] == 0
    assert torch.equal(labels[5:9], draw_labels(probabilities.log().expand(4, 4), range(5, 9), 0))
    assert torch.equal(labels[5:15:3], draw_labels(probabilities.log().expand(4, 4), range(5, 15, 3), 0))
