"""Compensations against sample-by-sample least squares and against their known special cases."""

import warnings
from dataclasses import dataclass

import pytest
import torch

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.compensation.base import Compensation, CompensationWarning, compensate
from hf_vbp.compensation.linear import fit_linear
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics
from tests.maths_helpers import output_error, random_site

KEPT = torch.tensor([1, 4, 5, 9, 10])


def test_none_only_deletes_columns():
    site, weights = random_site()
    fc2_weight, fc2_bias = compensate("none", weights, KEPT, site)
    assert torch.equal(fc2_weight, weights.fc2_weight[:, KEPT])
    assert torch.equal(fc2_bias, weights.fc2_bias)


def test_mean_equals_feeding_the_mean_of_the_pruned_neurons():
    site, weights = random_site()
    fc2_weight, fc2_bias = compensate("mean", weights, KEPT, site)
    replaced = site.samples.mean(0).repeat(len(site.samples), 1)
    replaced[:, KEPT] = site.samples[:, KEPT]
    expected = replaced @ weights.fc2_weight.T + weights.fc2_bias
    torch.testing.assert_close(site.samples[:, KEPT] @ fc2_weight.T + fc2_bias, expected)


def test_linear_is_the_least_squares_fit_of_the_dense_output():
    site, weights = random_site()
    fc2_weight, fc2_bias = compensate("linear", weights, KEPT, site, ridge=0.0)
    inputs = torch.cat([site.samples[:, KEPT], torch.ones(len(site.samples), 1, dtype=torch.float64)], 1)
    dense = site.samples @ weights.fc2_weight.T + weights.fc2_bias
    solution = torch.linalg.lstsq(inputs, dense).solution
    torch.testing.assert_close(fc2_weight, solution[:-1].T, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(fc2_bias, solution[-1], rtol=1e-8, atol=1e-8)


def test_errors_fall_from_none_to_mean_to_linear():
    site, weights = random_site(metric=True)
    errors = [
        output_error(site, weights, KEPT, *compensate(kind, weights, KEPT, site))
        for kind in ("none", "mean", "linear")
    ]
    assert errors[0] > errors[1] > errors[2]


def test_linear_is_the_mean_shift_when_neurons_are_uncorrelated():
    site, weights = random_site()
    site.moments.comoment.copy_(torch.diag(site.moments.m2))
    for ridge in (0.0, 1e-3):
        for ours, theirs in zip(
            compensate("linear", weights, KEPT, site, ridge=ridge),
            compensate("mean", weights, KEPT, site),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_linear_recovers_a_neuron_that_is_a_sum_of_others():
    site, weights = random_site()
    site.samples[:, 0] = 2 * site.samples[:, 1] - site.samples[:, 2] + 3
    site = site.with_samples(site.samples)
    kept = torch.arange(1, 12)
    fc2_weight, fc2_bias = compensate("linear", weights, kept, site, ridge=0.0)
    assert output_error(site, weights, kept, fc2_weight, fc2_bias) < 1e-18


def test_a_covariance_is_used_unchanged():
    site, weights = random_site()
    ridged = site.moments.covariance.clone()
    ridged.diagonal().add_(1e-2 * ridged.diagonal().mean())
    given = fit_linear(weights, KEPT, site.moments, ridged)
    asked = compensate("linear", weights, KEPT, site, regularization="ridge", ridge=1e-2)
    torch.testing.assert_close(given[0], asked[0], rtol=1e-10, atol=1e-12)


def test_linear_of_a_singular_covariance_names_the_site_and_is_the_mean_shift():
    site, weights = random_site()
    site.samples[:, 4] = site.samples[:, 1]
    site = site.with_samples(site.samples)
    with pytest.warns(CompensationWarning, match=r"encoder\.layers\.0\.mlp"):
        fc2_weight, fc2_bias = compensate("linear", weights, KEPT, site, ridge=0.0)
    expected_weight, expected_bias = compensate("mean", weights, KEPT, site)
    torch.testing.assert_close(fc2_weight, expected_weight, rtol=0, atol=0)
    torch.testing.assert_close(fc2_bias, expected_bias, rtol=0, atol=0)


def test_a_ridge_makes_dead_and_doubled_neurons_harmless():
    site, weights = random_site()
    site.samples[:, 4] = site.samples[:, 1]
    site.samples[:, 9] = 0.5
    site = site.with_samples(site.samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fc2_weight, fc2_bias = compensate("linear", weights, KEPT, site)
    assert torch.isfinite(fc2_weight).all()
    assert torch.isfinite(fc2_bias).all()


def test_constant_neurons_throughout_are_folded_into_the_bias_without_a_warning():
    site, weights = random_site()
    site = site.with_samples(torch.arange(12, dtype=torch.float64).repeat(50, 1))
    kept_error = output_error(site, weights, KEPT, *compensate("linear", weights, KEPT, site))
    assert kept_error == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(("kind", "has_bias"), [("none", False), ("mean", True), ("linear", False)])
def test_a_site_without_bias_gets_one_only_where_it_is_needed(kind, has_bias):
    site, weights = random_site(bias=False)
    _, fc2_bias = compensate(kind, weights, KEPT, site)
    assert (fc2_bias is not None) is has_bias


def test_without_a_bias_linear_is_least_squares_through_the_origin():
    site, weights = random_site(bias=False)
    samples = site.samples
    fc2_weight, fc2_bias = compensate("linear", weights, KEPT, site, ridge=0.0)
    assert fc2_bias is None
    expected = torch.linalg.lstsq(samples[:, KEPT], samples @ weights.fc2_weight.T).solution.T
    torch.testing.assert_close(fc2_weight, expected)


@pytest.mark.parametrize("kind", ["none", "mean", "linear"])
@pytest.mark.parametrize("kept", [range(12), []])
def test_keeping_everything_or_nothing(kind, kept):
    site, weights = random_site()
    kept = torch.tensor(list(kept), dtype=torch.int64)
    fc2_weight, fc2_bias = compensate(kind, weights, kept, site)
    assert fc2_weight.shape == (5, len(kept))
    if len(kept) or kind == "none":
        torch.testing.assert_close(fc2_bias, weights.fc2_bias)
        torch.testing.assert_close(fc2_weight, weights.fc2_weight[:, kept])
    else:
        torch.testing.assert_close(fc2_bias, weights.fc2_bias + weights.fc2_weight @ site.moments.mean)


def test_a_site_without_neurons():
    site = SiteStatistics("empty", 0, Moments(4, *torch.zeros(2, 0).double(), torch.zeros(0, 0).double()))
    weights = SiteWeights(torch.zeros(0, 3).double(), None, torch.zeros(3, 0).double(), torch.ones(3).double())
    for kind in ("none", "mean", "linear"):
        fc2_weight, fc2_bias = compensate(kind, weights, torch.tensor([], dtype=torch.int64), site)
        assert fc2_weight.shape == (3, 0)
        assert fc2_bias.tolist() == [1.0, 1.0, 1.0]


def test_mean_needs_variances_only_and_linear_names_missing_statistics():
    site, weights = random_site()
    site = site.without_covariances()
    compensate("mean", weights, KEPT, site)
    with pytest.raises(StatisticsError, match="hold variances only"):
        compensate("linear", weights, KEPT, site)


@pytest.mark.parametrize(
    ("kind", "kept", "options", "match"),
    [
        ("median", [0], {}, "none"),
        ("mean", [0, 12], {}, "0 to 11"),
        ("mean", [-1], {}, "0 to 11"),
        ("mean", [3, 3], {}, "distinct"),
        ("linear", [3], {"ridge": -1.0}, "strength"),
        ("linear", [3], {"regularization": "lasso"}, "held-out|ridge"),
    ],
)
def test_invalid_arguments_are_refused(kind, kept, options, match):
    site, weights = random_site()
    with pytest.raises(ConfigurationError, match=match):
        compensate(kind, weights, torch.tensor(kept), site, **options)


NAN = float("nan")


@pytest.mark.parametrize(
    ("fitted", "error", "message"),
    [
        ((torch.full((5, 4), NAN), torch.zeros(5)), NonFiniteError, "returned a weight with 20 values that are NaN"),
        ((torch.zeros(5, 4), torch.full((5,), NAN)), NonFiniteError, "returned a bias with 5 values that are NaN"),
        ((torch.zeros(4, 5), torch.zeros(5)), ConfigurationError, r"a weight of shape \(4, 5\), .* shape \(5, 4\)"),
        ((torch.zeros(5, 4), torch.zeros(4)), ConfigurationError, r"a bias of shape \(4,\), .* of shape \(5,\)"),
        ((torch.zeros(5, 4), None), ConfigurationError, "returned no bias .* return weights.fc2_bias to keep it"),
        (([[0.0]], None), ConfigurationError, "returned a weight list for"),
        (torch.zeros(5, 4), ConfigurationError, r"returned a Tensor for .* expected Compensated\(weight, bias\)"),
    ],
)
def test_the_weights_of_a_users_compensation_are_checked(fitted, error, message):
    site, weights = random_site()
    with pytest.raises(error, match=f"^compensation 'broken' .*{message}.*") as raised:
        compensate(returning(fitted), weights, KEPT[:4], site)
    assert repr(site.name) in str(raised.value)


def test_a_bias_that_the_site_has_no_place_for_is_refused():
    site, weights = random_site(bias=False)
    with pytest.raises(ConfigurationError, match=r"returned a bias for site .* has none, .*Requirements\(bias=True\)"):
        compensate(returning((torch.zeros(5, 4), torch.zeros(5))), weights, KEPT[:4], site)
    fitted = compensate(returning((torch.ones(5, 4), None)), weights, KEPT[:4], site)
    assert fitted.bias is None
    assert fitted.weight.dtype == torch.float64


def test_an_error_of_a_users_compensation_names_it_and_the_site():
    site, weights = random_site()
    with pytest.raises(
        ConfigurationError, match=r"^fit of compensation 'broken' for site 'enc.*' raised KeyError: 'x'"
    ):
        compensate(returning(KeyError("x")), weights, KEPT, site)


def returning(fitted):
    """A compensation that returns this, or raises it."""

    @dataclass(frozen=True)
    class Broken(Compensation):
        name = "broken"

        def fit(self, weights, kept, site):
            if isinstance(fitted, Exception):
                raise fitted
            return fitted

    return Broken()
