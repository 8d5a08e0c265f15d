"""The saliency of SNIP against finite differences in float64."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_vbp.adapters.registry import find_sites
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.saliency import collect_saliency
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.base import rank
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError, StatisticsError
from tests.calibration.helpers import DIAGONAL
from tests.conftest import make_model


def loss_with_multiplier(model, batches, site, neuron, value, labels):
    def hook(module, inputs):
        scaled = inputs[0].clone()
        scaled[..., neuron] *= value
        return (scaled,)

    pixel_values = torch.cat([batch["pixel_values"] for batch in batches]).double()
    handle = find_sites(model)[site].fc2.register_forward_pre_hook(hook)
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
    handle.remove()
    return cross_entropy(logits, labels).item()


@pytest.mark.parametrize("labels", ["self", "given"])
def test_saliency_is_the_derivative_of_the_loss_by_the_multiplier(batches, labels):
    model = make_model("vit", dtype=torch.float64)
    target = torch.cat([batch["labels"] for batch in batches])
    if labels == "self":
        with torch.no_grad():
            pixel_values = torch.cat([batch["pixel_values"] for batch in batches]).double()
            target = model(pixel_values=pixel_values).logits.argmax(-1)
    saliency = collect_saliency(model, batches, labels=labels)
    for site, neuron in ((0, 3), (1, 0), (2, 47)):
        up, down = (
            loss_with_multiplier(model, batches, site, neuron, value, target) for value in (1 + 1e-4, 1 - 1e-4)
        )
        assert saliency[site][neuron].item() == pytest.approx((up - down) / 2e-4, rel=1e-5, abs=1e-9)


def test_flags_and_modes_of_the_model_are_restored(vit, batches):
    vit.train()
    vit.vit.layers[1].eval()
    modes = [module.training for module in vit.modules()]
    collect_saliency(vit, batches, limit=7)
    assert [module.training for module in vit.modules()] == modes
    assert all(parameter.grad is None for parameter in vit.parameters())
    assert not any(site.fc2._forward_pre_hooks for site in find_sites(vit))


def test_frozen_models_and_a_limit_of_images(vit, batches):
    calls = []
    for parameter in vit.parameters():
        parameter.requires_grad_(False)
    limited = collect_saliency(vit, batches, limit=7, progress=lambda *call: calls.append(call))
    pixel_values = torch.cat([batch["pixel_values"] for batch in batches])[:7]
    alone = collect_saliency(vit, [{"pixel_values": pixel_values}])
    for ours, theirs in zip(limited, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert calls[-1] == (7, 7)


def test_a_site_that_the_logits_do_not_use_has_no_saliency(vit, batches):
    vit.vit.layers[2].mlp.register_forward_hook(lambda module, inputs, output: output.detach())
    saliency = collect_saliency(vit, batches)
    assert [bool(site.any()) for site in saliency] == [True, True, False]


def test_snip_ranks_by_its_size(vit, batches):
    weights = [SiteWeights.of(site) for site in find_sites(vit)]
    statistics = collect_statistics(vit, batches, VBPConfig(criterion="snip", compensation="none"))
    saliency = collect_saliency(vit, batches)
    rankings = rank("snip", statistics.sites, weights)
    assert all(torch.equal(r.scores, s.abs()) for r, s in zip(rankings, saliency, strict=True))
    without = collect_statistics(vit, batches, DIAGONAL)
    with pytest.raises(StatisticsError, match="hold no saliency"):
        rank("snip", without.sites, weights)


def test_bad_requests(vit, batches):
    with pytest.raises(ConfigurationError, match="labels"):
        collect_saliency(vit, batches, labels="mine")
    with pytest.raises(ConfigurationError, match="limit"):
        collect_saliency(vit, batches, limit=0)
    with pytest.raises(DataError, match="no images"):
        collect_saliency(vit, [])
    with pytest.raises(DataError, match="labels='self'"):
        collect_saliency(vit, [{"pixel_values": batches[0]["pixel_values"]}], labels="given")
    with pytest.raises(NonFiniteError):
        collect_saliency(vit, [{"pixel_values": batches[0]["pixel_values"] * float("nan")}])
