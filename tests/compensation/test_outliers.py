"""Least squares on sites with extreme outliers, judged on fresh tokens and against an independent solution."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensated, compensate
from hf_vbp.compensation.linear import Linear
from hf_vbp.compensation.regularization import automatic_regularization
from hf_vbp.criteria.base import rank
from hf_vbp.statistics.joint import JointMoments
from tests.maths_helpers import SampledSite, full, output_error, random_site

HIDDEN, TOKENS = 64, 10
KEPT = torch.arange(0, HIDDEN, 2)
PRUNED = torch.arange(1, HIDDEN, 2)
FRESH = 240
STRENGTHS = [0.0, *(10.0**power for power in range(-6, 3))]


def activations(images: int, seed: int) -> Tensor:
    """Correlated neurons of unequal scales, whose tokens depend on those of their image: (images, tokens, hidden)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factors = 0.6 * normal(images, 1, 16) + 0.8 * normal(images, TOKENS, 16)
    latent = factors * torch.arange(1, 17, dtype=torch.float64) ** -0.5
    return (3 * latent @ normal(16, HIDDEN) / 4 + 0.3 * normal(images, TOKENS, HIDDEN)) * torch.exp(normal(HIDDEN) / 2)


def scaled(x: Tensor, neurons: Tensor, size: float, noise: Tensor) -> Tensor:
    return x[..., neurons] * size / x[..., neurons].std((0, 1))


def independent(x: Tensor, neurons: Tensor, size: float, noise: Tensor) -> Tensor:
    return size * noise


def in_rare_tokens(x: Tensor, neurons: Tensor, size: float, noise: Tensor) -> Tensor:
    rare = (torch.arange(x[..., 0].numel()) % 37 == 0).reshape(x.shape[:2])[..., None]
    return x[..., neurons] + rare * size * 6 * (1 + 0.2 * noise)


def in_few_images(x: Tensor, neurons: Tensor, size: float, noise: Tensor) -> Tensor:
    few = (torch.arange(len(x)) % 4 == 0)[:, None, None]
    return x[..., neurons] + few * size * 2 * (1 + 0.2 * noise)


def in_one_token(x: Tensor, neurons: Tensor, size: float, noise: Tensor) -> Tensor:
    first = (torch.arange(TOKENS) == 0)[None, :, None]
    return x[..., neurons] + first * size * 3 * (1 + 0.01 * noise)


Change = Callable[[Tensor, Tensor, float, Tensor], Tensor]
CHANGES: tuple[Change, ...] = (scaled, independent, in_rare_tokens, in_few_images, in_one_token)
PLACES = {"kept": KEPT[:2], "pruned": PRUNED[:2], "both": torch.cat([KEPT[:1], PRUNED[:1]])}


def site_with(
    images: int, change: Change, place: str, factor: float, *, dominant: bool = False, seed: int = 0
) -> tuple[SampledSite, SampledSite, SiteWeights]:
    """A site with outliers of ``factor`` times the median variance, fresh tokens of it, and its weights."""
    x = activations(images + FRESH, seed)
    neurons = PLACES[place]
    size = float((factor * x.var((0, 1)).median()).sqrt())
    noise = torch.randn(*x.shape[:2], len(neurons), generator=torch.Generator().manual_seed(seed)).double()
    x[..., neurons] = change(x, neurons, size, noise)
    _, weights = random_site(HIDDEN, 8, seed=seed)
    if not dominant:
        # The output of an outlier is of the size of the others.
        weights.fc2_weight[:, neurons] /= factor**0.5
    return of_tokens(x, images, weights)


def of_tokens(x: Tensor, images: int, weights: SiteWeights) -> tuple[SampledSite, SampledSite, SiteWeights]:
    """The first images as a site in two halves, the others as fresh tokens."""
    half, rows = images // 2, x.reshape(-1, HIDDEN)
    halves = (full(rows[: half * TOKENS]), full(rows[half * TOKENS : images * TOKENS]))
    site = SampledSite("site", 0, full(rows[: images * TOKENS]), None, halves, samples=rows[: images * TOKENS])
    return site, site.with_samples(rows[images * TOKENS :]), weights


def standardized_ridge(site: SampledSite, weights: SiteWeights, strength: float) -> tuple[Tensor, Tensor]:
    """Ridge regression of the dense output on standardized kept neurons, by an augmented singular value problem."""
    samples, removed = site.samples, weights.fc2_weight[:, PRUNED]
    mean, scale = samples[:, KEPT].mean(0), samples[:, KEPT].std(0)
    target = samples[:, PRUNED] @ removed.T
    rows = (strength * (len(samples) - 1)) ** 0.5 * torch.eye(len(KEPT), dtype=torch.float64)
    inputs = torch.cat([(samples[:, KEPT] - mean) / scale, rows])
    outputs = torch.cat([target - target.mean(0), torch.zeros(len(KEPT), target.shape[1], dtype=torch.float64)])
    solution = torch.linalg.lstsq(inputs, outputs, driver="gelsd").solution.T / scale
    assert weights.fc2_bias is not None
    return weights.fc2_weight[:, KEPT] + solution, weights.fc2_bias + target.mean(0) - solution @ mean


def errors(site: SampledSite, fresh: SampledSite, weights: SiteWeights) -> tuple[float, float, float]:
    """The errors on fresh tokens: of the default, of the mean shift, and of the best ridge."""
    best = min(output_error(fresh, weights, KEPT, *standardized_ridge(site, weights, s)) for s in STRENGTHS)
    mean = output_error(fresh, weights, KEPT, *compensate("mean", weights, KEPT, site))
    return output_error(fresh, weights, KEPT, *compensate("linear", weights, KEPT, site)), mean, best


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("factor", [1e3, 1e5])
@pytest.mark.parametrize("images", [16, 160])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_error_on_fresh_tokens_is_near_that_of_the_best_strength(
    change: Change, place: str, images: int, factor: float, halves: bool
) -> None:
    site, fresh, weights = site_with(images, change, place, factor)
    found, mean, best = errors(site if halves else replace(site, halves=None), fresh, weights)
    assert found < 1.1 * best
    assert found < 0.2 * mean


@pytest.mark.parametrize("factor", [1e3, 1e5])
@pytest.mark.parametrize("images", [16, 160])
@pytest.mark.parametrize("change", [independent, in_few_images])
def test_outliers_that_cannot_be_predicted_get_the_mean_shift_where_the_other_half_shows_it(
    change: Change, images: int, factor: float
) -> None:
    site, fresh, weights = site_with(images, change, "pruned", factor, dominant=True)
    found, mean, best = errors(site, fresh, weights)
    assert found < 1.05 * mean
    assert found < 1.1 * min(best, mean)
    if images == 16:
        # Without the halves there is nothing to see it by.
        assert errors(replace(site, halves=None), fresh, weights)[0] > 1.05 * found


@pytest.mark.parametrize("change", CHANGES)
def test_a_share_of_the_mean_variance_more_than_doubles_the_error(change: Change) -> None:
    # The reason for the default.
    site, fresh, weights = site_with(160, change, "kept", 1e5)
    ridge = compensate("linear", weights, KEPT, site, regularization="ridge")
    assert output_error(fresh, weights, KEPT, *ridge) > 2 * errors(site, fresh, weights)[0]


def test_heavy_tails_of_all_tokens() -> None:
    for images in (16, 160):
        x = activations(images + FRESH, seed=1)
        torch.manual_seed(1)
        x = x / torch.distributions.Gamma(1.5, 1.5).sample((*x.shape[:2], 1)).double().sqrt()
        site, fresh, weights = of_tokens(x, images, random_site(HIDDEN, 8)[1])
        found, mean, best = errors(site, fresh, weights)
        assert found < 1.1 * best < mean


def test_an_outlier_in_one_half_only_does_not_discard_what_predicts_well() -> None:
    x = activations(32 + FRESH, seed=0)
    x[20:24, :, KEPT[0]] *= 300
    x[32::8, :, KEPT[0]] *= 300
    site, fresh, weights = of_tokens(x, 32, random_site(HIDDEN, 8)[1])
    weights.fc2_weight[:, KEPT[0]] /= 100
    found, mean, best = errors(site, fresh, weights)
    assert found < 1.1 * best < 0.2 * mean


@pytest.mark.parametrize("halves", [True, False])
def test_scales_of_neurons_change_nothing(halves: bool) -> None:
    site, _, weights = of_tokens(activations(24 + FRESH, seed=2), 24, random_site(HIDDEN, 8)[1])
    scales = 10 ** (torch.arange(HIDDEN, dtype=torch.float64) % 3 - 1)
    scales[5::16] *= 30
    other, _, _ = of_tokens(site.samples.reshape(24, TOKENS, HIDDEN) * scales, 24, weights)
    rescaled = replace(weights, fc2_weight=weights.fc2_weight / scales)
    if not halves:
        site, other = replace(site, halves=None), replace(other, halves=None)
    plain, changed = compensate("linear", weights, KEPT, site), compensate("linear", rescaled, KEPT, other)
    # Exact but for the floor of negligible variances, 1e-6 of the median.
    torch.testing.assert_close(changed.weight * scales[KEPT], plain.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(changed.bias, plain.bias, rtol=1e-3, atol=1e-4)


def test_scales_of_neurons_do_not_change_the_order_of_elimination() -> None:
    site, _, weights = of_tokens(activations(24 + FRESH, seed=2), 24, random_site(HIDDEN, 8)[1])
    outliers = torch.where(torch.arange(HIDDEN) % 16 == 3, 300.0, 1.0).double()
    other, _, _ = of_tokens(site.samples.reshape(24, TOKENS, HIDDEN) * outliers, 24, weights)
    (plain,) = rank("obs", [site], [weights])
    (changed,) = rank("obs", [other], [replace(weights, fc2_weight=weights.fc2_weight / outliers)])
    assert plain.order().tolist() == changed.order().tolist()
    torch.testing.assert_close(changed.scores, plain.scores, rtol=1e-4, atol=0.0)


def test_the_refit_does_not_depend_on_the_scales_either() -> None:
    site, _, weights = of_tokens(activations(24 + FRESH, seed=2), 24, random_site(HIDDEN, 8)[1])
    outliers = torch.where(torch.arange(HIDDEN) % 16 == 4, 300.0, 1.0).double()
    dense = site.samples @ weights.fc2_weight.T
    fitted = Compensated(torch.zeros(8, len(KEPT)).double(), torch.zeros(8).double())
    plain, changed = (
        Linear().refit(fitted, JointMoments.of((site.samples * scale)[:, KEPT], dense))
        for scale in (torch.ones(HIDDEN).double(), outliers)
    )
    torch.testing.assert_close(changed.weight * outliers[KEPT], plain.weight, rtol=1e-3, atol=1e-4)


def test_neurons_that_are_constant_or_vary_by_rounding_predict_nothing() -> None:
    x = activations(24 + FRESH, seed=3)
    x[..., KEPT[0]] = 0.7
    x[..., KEPT[1]] = 0.7 + 1e-8 * x[..., PRUNED[1]]
    site, _, weights = of_tokens(x, 24, random_site(HIDDEN, 8)[1])
    weight = compensate("linear", weights, KEPT, site).weight
    torch.testing.assert_close(weight[:, 0], weights.fc2_weight[:, KEPT[0]], rtol=0, atol=0)
    # A coefficient of 1e8 would fit these tokens.
    assert (weight[:, 1] - weights.fc2_weight[:, KEPT[1]]).abs().max() < 1


def test_a_strength_of_zero_is_the_plain_solution_and_a_given_strength_is_the_least() -> None:
    site, _, weights = site_with(160, independent, "kept", 1e5)
    assert automatic_regularization(site, weights, KEPT, strength=0.0).strength == 0
    assert automatic_regularization(site, weights, KEPT, strength=0.2).strength == 0.2
    exact = compensate("linear", weights, KEPT, site, ridge=0.0)
    expected = standardized_ridge(site, weights, 0.0)
    torch.testing.assert_close(exact.weight, expected[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(exact.bias, expected[1], rtol=1e-6, atol=1e-6)
