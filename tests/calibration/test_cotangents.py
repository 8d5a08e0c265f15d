"""The output metric of models that are no single-label classifiers, against gradients taken image by image."""

from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError
from hf_vbp.output_distance import ImageNoise, detect_kind
from tests.calibration.helpers import images, in_batches
from tests.conftest import make_model

METRIC = Requirements(output_metric=True)
KINDS = {
    "multi-label": {"problem_type": "multi_label_classification"},
    "regression": {"num_labels": 1},
}


def metrics_by_hand(model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Return ``E[g g^T]`` of every site in float64, from one backward pass per image."""
    sites = find_sites(model)
    sums = [torch.zeros(32, 32, dtype=torch.float64) for _ in sites]
    outputs: list[torch.Tensor] = []
    handles = [site.fc2.register_forward_hook(lambda m, i, output: outputs.append(output)) for site in sites]
    for number, image in enumerate(pixels):
        outputs.clear()
        output = model(pixel_values=image[None])
        distance = detect_kind(output, model.config, type(model).__name__)
        scalar = distance.inner_product(output, distance.cotangents(output, ImageNoise(0, [number])))
        gradients = torch.autograd.grad(scalar, outputs)
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient[0].double().T @ gradient[0].double()
    for handle in handles:
        handle.remove()
    return [total / (len(pixels) * 17) for total in sums]


@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_is_that_of_random_cotangents(kind: str) -> None:
    model = make_model(**KINDS[kind])
    pixels = images(5)
    statistics = collect_statistics(model, in_batches(pixels, 2), METRIC)
    for site, expected in zip(statistics.sites, metrics_by_hand(model, pixels), strict=True):
        torch.testing.assert_close(site.metric, expected, rtol=1e-4, atol=1e-9)
    assert statistics.fingerprints["output_metric"]["output"] in ("multi_label", "regression")


def test_an_image_is_not_its_own_neighbor() -> None:
    model, pixels = make_model("vit-backbone"), images(5)
    sites = find_sites(model)
    with torch.no_grad():
        bank = torch.nn.functional.normalize(model(pixel_values=pixels).pooler_output, dim=-1)
    sums = [torch.zeros(32, 32, dtype=torch.float64) for _ in sites]
    outputs: list[torch.Tensor] = []
    handles = [site.fc2.register_forward_hook(lambda m, i, output: outputs.append(output)) for site in sites]
    for number in range(5):
        outputs.clear()
        feature = torch.nn.functional.normalize(
            model(pixel_values=pixels[number : number + 1]).pooler_output[0], dim=-1
        )
        others = torch.arange(5) != number
        similarities = bank[others] @ feature / 0.05
        p = similarities.detach().softmax(-1)
        e = ImageNoise(0, [number]).at(torch.ones(1, 1, dtype=torch.bool), 5)[0, 0, others]
        cotangent = p.sqrt() * e - p * (p.sqrt() @ e)
        for total, gradient in zip(sums, torch.autograd.grad(similarities @ cotangent, outputs), strict=True):
            total += gradient[0].double().T @ gradient[0].double()
    for handle in handles:
        handle.remove()
    statistics = collect_statistics(model, in_batches(pixels, 2), METRIC)
    for site, total in zip(statistics.sites, sums, strict=True):
        expected = total / (5 * 17)
        torch.testing.assert_close(site.metric, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["vit-backbone", "deit-backbone"])
def test_backbones_use_neighbors_and_batches_do_not_matter(kind: str) -> None:
    model, pixels = make_model(kind), images(6)
    whole, parts = (collect_statistics(model, in_batches(pixels, size), METRIC) for size in (6, 2))
    assert whole.fingerprints["output_metric"] == {"seed": 0, "output": "features"}
    for one, other in zip(whole.sites, parts.sites, strict=True):
        assert one.metric is not None
        assert bool(one.metric.any())
        torch.testing.assert_close(one.metric, other.metric, rtol=1e-4, atol=1e-4 * float(one.metric.abs().max()))


def test_images_that_can_be_read_once_give_no_neighbors() -> None:
    with pytest.raises(ConfigurationError, match="takes a second pass"):
        collect_statistics(make_model("vit-backbone"), iter(in_batches(images(4), 2)), METRIC)


def test_a_regression_head_is_not_pruned_at_random() -> None:
    """The first version drew labels from a softmax over one logit: a metric of zero, and damage of exactly 0."""
    result = hf_vbp.prune(make_model(num_labels=1), in_batches(images(6), 3), hf_vbp.VBPConfig(ratio=0.5))
    assert result.plan.predicted["metric"] == "gradient"
    assert 0 < result.plan.predicted["relative_output_error"] < 1
