"""Regularized covariances against scikit-learn, random-matrix theory, and held-out images."""

from dataclasses import replace

import pytest
import torch
from sklearn.covariance import ledoit_wolf, oas

from hf_vbp.compensation.base import compensate
from hf_vbp.compensation.regularization import CANDIDATES, KINDS, Regularization, choose_regularization, sampling_noise
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.statistics.site_moments import full_halves
from tests.maths_helpers import full, output_error, random_samples, random_site

KEPT = torch.arange(0, 30, 2)


def few_tokens(seed=0, tokens=24, hidden=30):
    """A site that saw fewer tokens than it has neurons, and 4000 fresh tokens of it."""
    samples = random_samples(hidden, 4000 + tokens, seed=seed, rank=8)
    samples = samples + 0.5 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed)).double()
    site, weights = random_site(hidden, 5, seed=seed)
    halves = (full(samples[: tokens // 2]), full(samples[tokens // 2 : tokens]))
    site = replace(site.with_samples(samples[:tokens]), halves=halves)
    return site, weights, site.with_samples(samples[tokens:])


def test_oas_agrees_with_scikit_learn():
    # Wide enough that the terms in 2 / hidden, which scikit-learn leaves out, do not matter.
    samples = random_samples(80, 300, seed=1)
    centered = samples - samples.mean(0)
    biased = centered.T @ centered / len(samples)
    expected, _ = oas(centered.numpy(), assume_centered=True)
    torch.testing.assert_close(
        Regularization("oas", 1.0).apply(biased, len(samples)), torch.from_numpy(expected), rtol=0.02, atol=0.02
    )


def test_two_halves_give_the_shrinkage_of_ledoit_and_wolf():
    # Independent tokens: the fourth moments of scikit-learn and the two halves estimate the same.
    shares = []
    for seed in range(8):
        samples = random_samples(40, 160, seed=seed)
        centered = samples - samples.mean(0)
        covariance = centered.T @ centered / len(samples)
        _, expected = ledoit_wolf(centered.numpy(), assume_centered=True)
        halves = [torch.cov(half.T) for half in samples.split(80)]
        regularized = Regularization("ledoit-wolf", 1.0).apply(covariance, 160, noise=sampling_noise(*halves))
        share = 1 - regularized[0, 1] / covariance[0, 1]
        shares.append(float(share) / float(expected))
        assert regularized.trace() == pytest.approx(float(covariance.trace()))
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.1)


def test_ledoit_and_wolf_need_the_halves():
    site, weights = random_site(30, 5)
    site = replace(site, halves=None)
    with pytest.raises(StatisticsError, match="two halves"):
        compensate("linear", weights, KEPT, site, regularization="ledoit-wolf", ridge=1.0)


def test_the_second_half_is_the_total_minus_the_first():
    site, weights = random_site(30, 5, tokens=400)
    both = full_halves(site)
    errors = choose_regularization(site, weights, KEPT)[1]
    site = replace(site, halves=(site.halves[0], site.halves[1].diagonal()))
    _, second = full_halves(site)
    torch.testing.assert_close(second.comoment, both[1].comoment, rtol=1e-10, atol=1e-10)
    assert choose_regularization(site, weights, KEPT)[1] == pytest.approx(errors)


def test_ridge_and_diagonal_by_hand():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    ridge = Regularization("ridge", 0.1).apply(covariance, 10)
    assert ridge.flatten().tolist() == pytest.approx([2.3, 1.0, 1.0, 4.3])
    diagonal = Regularization("diagonal", 0.1).apply(covariance, 10)
    assert diagonal.flatten().tolist() == pytest.approx([2.0, 0.9, 0.9, 4.0])
    assert covariance.flatten().tolist() == [2.0, 1.0, 1.0, 4.0]


def test_the_edge_keeps_a_spike_and_drops_pure_noise():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(800, 200, generator=generator, dtype=torch.float64)
    samples[:, 0] *= 5
    regularized = Regularization("edge", 1.0).apply(torch.cov(samples.T), 800)
    eigenvalues = torch.linalg.eigvalsh(regularized)
    assert eigenvalues[-1] > 20
    assert (eigenvalues[:-6] < 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
def test_regularized_covariances_are_symmetric_and_can_be_inverted(kind):
    site, _, _ = few_tokens()
    regularized = Regularization(kind, 0.1).apply(site.moments.covariance, site.moments.count, noise=3.0)
    torch.testing.assert_close(regularized, regularized.T)
    assert torch.linalg.eigvalsh(regularized).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_neurons_and_no_variance(kind):
    cleaner = Regularization(kind, 0.1)
    assert cleaner.apply(torch.zeros(0, 0, dtype=torch.float64), 5, noise=0.0).shape == (0, 0)
    assert torch.equal(cleaner.apply(torch.zeros(3, 3, dtype=torch.float64), 5, noise=0.0), torch.zeros(3, 3).double())


def test_the_choice_is_better_on_fresh_tokens_than_almost_no_regularization():
    gains = []
    for seed in range(6):
        site, weights, fresh = few_tokens(seed)
        chosen, errors = choose_regularization(site, weights, KEPT)
        assert errors[CANDIDATES.index(chosen)] == min(errors)
        options = {"ridge": chosen.strength, "regularization": chosen.kind}
        ours = output_error(fresh, weights, KEPT, *compensate("linear", weights, KEPT, site, **options))
        plain = output_error(
            fresh, weights, KEPT, *compensate("linear", weights, KEPT, site, regularization="ridge", ridge=1e-6)
        )
        held_out = compensate("linear", weights, KEPT, site, regularization="held-out")
        assert output_error(fresh, weights, KEPT, *held_out) == pytest.approx(ours)
        gains.append(plain / ours)
    assert min(gains) > 1
    assert sum(gains) / len(gains) > 1.5


def test_held_out_error_is_that_of_a_fit_on_the_other_half():
    site, weights = random_site(30, 5, tokens=400)
    (error,) = choose_regularization(site, weights, KEPT, candidates=[Regularization("ridge", 1e-2)])[1]
    expected = []
    for fitted, held_out in ((slice(0, 200), slice(200, 400)), (slice(200, 400), slice(0, 200))):
        repaired = compensate("linear", weights, KEPT, site.with_samples(site.samples[fitted]), ridge=1e-2)
        expected.append(output_error(site.with_samples(site.samples[held_out]), weights, KEPT, *repaired))
    assert error == pytest.approx(sum(expected) / 2, rel=0.02)


def test_the_choice_depends_on_the_metric():
    site, weights = random_site(30, 5, metric=True)
    plain = choose_regularization(site, weights, KEPT)[1]
    weighted = choose_regularization(site, weights, KEPT, metric=site.metric)[1]
    assert plain != weighted


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("lasso", 0.1), ("ridge", -1), ("diagonal", 2), ("oas", 0), ("edge", 0), ("ridge", float("nan"))],
)
def test_invalid_values_are_refused(kind, strength):
    with pytest.raises(ConfigurationError, match=r"regularization|strength"):
        Regularization(kind, strength)


def test_halves_without_covariances_are_refused():
    site, weights = random_site(30, 5)
    with pytest.raises(ConfigurationError, match="at least one regularization"):
        choose_regularization(site, weights, KEPT, candidates=[])
    site = replace(site, halves=(site.moments.diagonal(), site.moments.diagonal()))
    with pytest.raises(StatisticsError, match="two halves"):
        choose_regularization(site, weights, KEPT)
    site = replace(site, halves=None)
    with pytest.raises(StatisticsError, match="two halves"):
        compensate("linear", weights, KEPT, site, regularization="held-out")
