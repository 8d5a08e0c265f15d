"""Cleaned covariances against scikit-learn, random-matrix theory, and images that were held back."""

import pytest
import torch
from hf_vbp.compensation.compensate import compensate
from sklearn.covariance import ledoit_wolf, oas

from hf_vbp.compensation.regularization import CANDIDATES, KINDS, Regularisation, choose_regularisation, sampling_noise
from hf_vbp.criteria.base import full_halves
from hf_vbp.errors import ConfigurationError, StatisticsError
from tests.maths_helpers import FakeMoments, output_error, random_samples, random_site

KEPT = torch.arange(0, 30, 2)


def few_tokens(seed=0, tokens=24, hidden=30):
    """A site that saw fewer tokens than it has neurons, and 4000 fresh tokens of it."""
    samples = random_samples(hidden, 4000 + tokens, seed=seed, rank=8)
    samples = samples + 0.5 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed)).double()
    site, weights = random_site(hidden, 5, seed=seed)
    site.samples = samples[:tokens]
    site.moments = FakeMoments.of(samples[:tokens])
    site.halves = (FakeMoments.of(samples[: tokens // 2]), FakeMoments.of(samples[tokens // 2 : tokens]))
    fresh, _ = random_site(hidden, 5, seed=seed)
    fresh.samples = samples[tokens:]
    return site, weights, fresh


def test_oas_agrees_with_scikit_learn():
    # Wide enough that the terms in 2 / hidden, which scikit-learn leaves out, do not matter.
    samples = random_samples(80, 300, seed=1)
    centred = samples - samples.mean(0)
    biased = centred.T @ centred / len(samples)
    expected, _ = oas(centred.numpy(), assume_centered=True)
    torch.testing.assert_close(
        Regularisation("oas", 1.0).apply(biased, len(samples)), torch.from_numpy(expected), rtol=0.02, atol=0.02
    )


def test_the_halves_tell_the_shrinkage_that_ledoit_and_wolf_do():
    # Independent tokens: the fourth moments of scikit-learn and the two halves estimate the same.
    shares = []
    for seed in range(8):
        samples = random_samples(40, 160, seed=seed)
        centred = samples - samples.mean(0)
        covariance = centred.T @ centred / len(samples)
        _, expected = ledoit_wolf(centred.numpy(), assume_centered=True)
        halves = [torch.cov(half.T) for half in samples.split(80)]
        cleaned = Regularisation("ledoit-wolf", 1.0).apply(covariance, 160, noise=sampling_noise(*halves))
        share = 1 - cleaned[0, 1] / covariance[0, 1]
        shares.append(float(share) / float(expected))
        assert cleaned.trace() == pytest.approx(float(covariance.trace()))
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.1)


def test_ledoit_and_wolf_need_the_halves():
    site, weights = random_site(30, 5)
    site.halves = None
    with pytest.raises(StatisticsError, match="two halves"):
        compensate("linear", weights, KEPT, site, regularisation="ledoit-wolf", ridge=1.0)


def test_the_second_half_is_what_the_first_leaves():
    site, weights = random_site(30, 5, tokens=400)
    both = full_halves(site)
    errors = choose_regularisation(site, weights, KEPT)[1]
    site.halves = (site.halves[0], FakeMoments.of(site.samples[200:], full=False))
    _, second = full_halves(site)
    torch.testing.assert_close(second.comoment, both[1].comoment, rtol=1e-10, atol=1e-10)
    assert choose_regularisation(site, weights, KEPT)[1] == pytest.approx(errors)


def test_ridge_and_diagonal_by_hand():
    covariance = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    ridge = Regularisation("ridge", 0.1).apply(covariance, 10)
    assert ridge.flatten().tolist() == pytest.approx([2.3, 1.0, 1.0, 4.3])
    diagonal = Regularisation("diagonal", 0.1).apply(covariance, 10)
    assert diagonal.flatten().tolist() == pytest.approx([2.0, 0.9, 0.9, 4.0])
    assert covariance.flatten().tolist() == [2.0, 1.0, 1.0, 4.0]


def test_the_edge_keeps_a_spike_and_drops_pure_noise():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(800, 200, generator=generator, dtype=torch.float64)
    samples[:, 0] *= 5
    cleaned = Regularisation("edge", 1.0).apply(torch.cov(samples.T), 800)
    eigenvalues = torch.linalg.eigvalsh(cleaned)
    assert eigenvalues[-1] > 20
    assert (eigenvalues[:-6] < 0.01).all()


@pytest.mark.parametrize("kind", KINDS)
def test_cleaned_covariances_are_symmetric_and_can_be_inverted(kind):
    site, _, _ = few_tokens()
    cleaned = Regularisation(kind, 0.1).apply(site.moments.covariance, site.moments.count, noise=3.0)
    torch.testing.assert_close(cleaned, cleaned.T)
    assert torch.linalg.eigvalsh(cleaned).min() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_neurons_and_no_variance(kind):
    cleaner = Regularisation(kind, 0.1)
    assert cleaner.apply(torch.zeros(0, 0, dtype=torch.float64), 5, noise=0.0).shape == (0, 0)
    assert torch.equal(cleaner.apply(torch.zeros(3, 3, dtype=torch.float64), 5, noise=0.0), torch.zeros(3, 3).double())


def test_the_choice_is_better_on_fresh_tokens_than_hardly_any_regularisation():
    gains = []
    for seed in range(6):
        site, weights, fresh = few_tokens(seed)
        chosen, errors = choose_regularisation(site, weights, KEPT)
        assert errors[CANDIDATES.index(chosen)] == min(errors)
        options = {"ridge": chosen.strength, "regularisation": chosen.kind}
        ours = output_error(fresh, weights, KEPT, *compensate("linear", weights, KEPT, site, **options))
        plain = output_error(fresh, weights, KEPT, *compensate("linear", weights, KEPT, site, ridge=1e-6))
        held_out = compensate("linear", weights, KEPT, site, regularisation="held-out")
        assert output_error(fresh, weights, KEPT, *held_out) == pytest.approx(ours)
        gains.append(plain / ours)
    assert min(gains) > 1
    assert sum(gains) / len(gains) > 1.5


def test_held_out_error_is_that_of_a_repair_fitted_on_the_other_half():
    site, weights = random_site(30, 5, tokens=400)
    (error,) = choose_regularisation(site, weights, KEPT, candidates=[Regularisation("ridge", 1e-2)])[1]
    expected = []
    for fitted, held_out in ((slice(0, 200), slice(200, 400)), (slice(200, 400), slice(0, 200))):
        half, _ = random_site(30, 5, tokens=400)
        half.moments = FakeMoments.of(site.samples[fitted])
        repaired = compensate("linear", weights, KEPT, half, ridge=1e-2)
        half.samples = site.samples[held_out]
        expected.append(output_error(half, weights, KEPT, *repaired))
    assert error == pytest.approx(sum(expected) / 2, rel=0.02)


def test_the_metric_takes_part_in_the_choice():
    site, weights = random_site(30, 5, metric=True)
    plain = choose_regularisation(site, weights, KEPT)[1]
    weighted = choose_regularisation(site, weights, KEPT, metric=site.metric)[1]
    assert plain != weighted


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("lasso", 0.1), ("ridge", -1), ("diagonal", 2), ("oas", 0), ("edge", 0), ("ridge", float("nan"))],
)
def test_what_cannot_be_meant_is_refused(kind, strength):
    with pytest.raises(ConfigurationError, match=r"regularisation|strength"):
        Regularisation(kind, strength)


def test_halves_without_covariances_are_refused():
    site, weights = random_site(30, 5)
    with pytest.raises(ConfigurationError, match="choose from"):
        choose_regularisation(site, weights, KEPT, candidates=[])
    site.halves = tuple(FakeMoments.of(site.samples, full=False) for _ in range(2))
    with pytest.raises(StatisticsError, match="two halves"):
        choose_regularisation(site, weights, KEPT)
    site.halves = None
    with pytest.raises(StatisticsError, match="two halves"):
        compensate("linear", weights, KEPT, site, regularisation="held-out")
