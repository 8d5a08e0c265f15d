"""Moments with tokens weighted by their gradients, against gradients taken image by image in float64."""

from functools import partial
from typing import Any

import pytest
import torch

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.batch_moments import Workspace, weighted_moments
from hf_vbp.calibration.collect import collect_statistics, statistics_bytes
from hf_vbp.calibration.hooked_model import draw_labels
from hf_vbp.calibration.site_accumulator import token_weights
from hf_vbp.calibration.tokens import Tokens
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError, StatisticsError, StatisticsMismatchError
from hf_vbp.pruning.make_plan import make_plan
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import EVERYTHING, FULL, METRIC, images, in_batches
from tests.conftest import make_model


def keep(found: list[Any], module: Any, inputs: Any, output: torch.Tensor) -> None:
    found.append((inputs[0].detach(), output))


def weighted_rows(model: Any, values: torch.Tensor, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return, for every site, all activations ``(tokens, hidden)`` and their weights ``(tokens,)``."""
    sites = find_sites(model)
    rows: list[list[torch.Tensor]] = [[] for _ in sites]
    weights: list[list[torch.Tensor]] = [[] for _ in sites]
    for index, image in enumerate(values):
        seen: list[Any] = []
        handles = [site.fc2.register_forward_hook(partial(keep, seen)) for site in sites]
        logits = model(pixel_values=image[None]).logits
        for handle in handles:
            handle.remove()
        label = draw_labels(logits, range(index, index + 1), seed)
        gradients = torch.autograd.grad(
            -torch.nn.functional.cross_entropy(logits, label), [output for _, output in seen]
        )
        for number, ((hidden, _), gradient) in enumerate(zip(seen, gradients, strict=True)):
            norms = gradient[0].double().square().sum(-1).sqrt()
            rows[number].append(hidden[0].double())
            weights[number].append((1 + norms / norms.mean()) / 2)
    return [(torch.cat(a), torch.cat(b)) for a, b in zip(rows, weights, strict=True)]


@pytest.mark.parametrize("kind", ["vit", "deit-teacher"])
def test_agrees_with_gradients_image_by_image(kind: str) -> None:
    model, values = make_model(kind), images(21)
    statistics = collect_statistics(model, in_batches(values, 4), EVERYTHING, seed=3)
    for site, (rows, weights) in zip(statistics.sites, weighted_rows(model, values, 3), strict=True):
        assert site.weighted is not None
        assert site.weighted.count == len(rows) == site.moments.count
        mean = (weights[:, None] * rows).sum(0) / len(rows)
        comoment = ((rows - mean) * weights[:, None]).T @ (rows - mean)
        spread = comoment.diagonal().sqrt()
        torch.testing.assert_close(site.weighted.mean, mean, rtol=1e-5, atol=1e-6)
        error = (site.weighted.comoment - comoment).abs() / torch.outer(spread, spread)
        assert float(error.max()) < 1e-5
        torch.testing.assert_close(site.weighted.comoment.diagonal(), site.weighted.m2)  # type: ignore[union-attr]


def test_weights_of_an_image_add_up_to_its_tokens() -> None:
    gradients = torch.randn(5, 17, 8, generator=torch.Generator().manual_seed(0))
    gradients[2] = 0
    weights = token_weights(Tokens(gradients))
    torch.testing.assert_close(weights.sum(1), torch.full((5,), 17.0))
    assert torch.equal(weights[2], torch.ones(17))
    assert float(weights.min()) >= 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_weighted_moments_agree_with_float64(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (offset + torch.randn(3000, 20, generator=generator)).to(dtype)
    weights = torch.rand(3000, generator=generator) + 0.5
    weights *= 3000 / weights.sum()
    handed: list[torch.Tensor] = []
    batch = weighted_moments(rows, weights, Workspace(), lambda scaled: handed.append(scaled[:, :20].clone()))
    wide, total = rows.double(), weights.double().sum()
    mean = (weights.double()[:, None] * wide).sum(0) / total
    m2 = (weights.double()[:, None] * (wide - mean).square()).sum(0)
    torch.testing.assert_close(batch.mean, mean, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(batch.m2, m2, rtol=1e-5, atol=0)
    expected = (wide - batch.shift) * weights.double().sqrt()[:, None]
    torch.testing.assert_close(handed[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_token_weights_do_not_change_the_plain_moments(vit: Any) -> None:
    batches = in_batches(images(40), 8)
    plain = collect_statistics(vit, batches, FULL | METRIC)
    both = collect_statistics(vit, batches, EVERYTHING - Requirements(halves=True))
    for mine, theirs in zip(both.sites, plain.sites, strict=True):
        torch.testing.assert_close(mine.moments.comoment, theirs.moments.comoment, rtol=1e-9, atol=1e-9)
        assert torch.equal(mine.moments.m2, theirs.moments.m2)
        assert mine.halves is not None
        assert mine.halves[0].comoment is None
        assert theirs.weighted is None


def test_the_default_plans_from_the_weighted_moments(vit: Any) -> None:
    config = VBPConfig(ratio=0.5)
    assert config.requires.token_weights
    statistics = collect_statistics(vit, in_batches(images(40), 8), EVERYTHING)
    plain = VBPConfig(
        ratio=0.5, criterion_options={"token_weights": "none"}, compensation_options={"token_weights": "none"}
    )
    without = collect_statistics(vit, in_batches(images(40), 8), FULL | METRIC)
    assert make_plan(vit, statistics, plain).predicted == make_plan(vit, without, config).predicted
    # The error is that of the plain moments, so a compensation fitted to the weighted ones has a larger one.
    mine, theirs = (make_plan(vit, given, config).predicted for given in (statistics, without))
    assert mine["relative_output_error"] > theirs["relative_output_error"]
    with pytest.raises(StatisticsError, match="no weighted moments"):
        make_plan(vit, without, VBPConfig(ratio=0.5, criterion_options={"token_weights": "gradient"}))
    with pytest.raises(ConfigurationError, match="Unknown token_weights 'some'"):
        make_plan(vit, statistics, VBPConfig(ratio=0.5, compensation_options={"token_weights": "some"}))


def test_weighted_moments_are_saved_and_merged(vit: Any, tmp_path: Any) -> None:
    first, second = (collect_statistics(vit, in_batches(images(20, seed=s), 8), EVERYTHING) for s in (7, 8))
    first.save(tmp_path / "first.safetensors")
    loaded = ActivationStatistics.load(tmp_path / "first.safetensors")
    joined = loaded.merge(second)
    for site, mine, theirs in zip(joined.sites, first.sites, second.sites, strict=True):
        assert mine.weighted is not None
        assert theirs.weighted is not None
        assert site.weighted is not None
        torch.testing.assert_close(site.weighted.comoment, mine.weighted.merge(theirs.weighted).comoment)
    without = collect_statistics(vit, in_batches(images(20, seed=9), 8), FULL | METRIC)
    with pytest.raises(StatisticsMismatchError, match="token_weights differs"):
        first.merge(without)


def test_token_weights_need_covariances_and_gradients(vit: Any) -> None:
    weights = Requirements(token_weights=True)
    for requires in (FULL, METRIC):
        with pytest.raises(ConfigurationError, match="token_weights=True"):
            collect_statistics(vit, in_batches(images(20), 8), requires | weights)
    bytes_of = [statistics_bytes(find_sites(vit), requires) for requires in (EVERYTHING - weights, EVERYTHING)]
    assert bytes_of[1] - bytes_of[0] == 8 * 3 * (48**2 + 2 * 48)
