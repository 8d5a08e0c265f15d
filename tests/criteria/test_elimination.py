"""The greedy elimination against brute force: true least squares for every candidate at every step."""

import itertools

import pytest
import torch
from torch import Tensor

from hf_vbp.compensation.base import compensate
from hf_vbp.criteria.elimination import eliminate, output_gram
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.statistics.elimination_curve import EliminationCurve
from tests.maths_helpers import output_error, random_samples, random_site


def least_squares_error(covariance: Tensor, fc2_weight: Tensor, metric: Tensor, kept: list[int]) -> float:
    """Expected output error of the best affine compensation, by an independent dense solve."""
    pruned = [j for j in range(len(covariance)) if j not in kept]
    residual = covariance[pruned][:, pruned]
    if kept:
        cross = covariance[pruned][:, kept]
        residual = residual - cross @ torch.linalg.lstsq(covariance[kept][:, kept], cross.T).solution
    columns = fc2_weight[:, pruned]
    return torch.trace(metric @ columns @ residual @ columns.T).item()


def brute_force(covariance: Tensor, fc2_weight: Tensor, metric: Tensor) -> tuple[list[int], list[float]]:
    kept, order, errors = list(range(len(covariance))), [], [0.0]
    while kept:
        tried = [(least_squares_error(covariance, fc2_weight, metric, [k for k in kept if k != j]), j) for j in kept]
        error, gone = min(tried)
        kept.remove(gone)
        order.append(gone)
        errors.append(error)
    return order, errors


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_same_order_and_errors_as_brute_force(seed, metric, block):
    site, weights = random_site(18, 6, seed=seed, metric=metric)
    covariance = site.moments.covariance
    true_metric = site.metric if metric else torch.eye(6, dtype=torch.float64)
    order, errors = brute_force(covariance, weights.fc2_weight, true_metric)
    curve = eliminate(covariance, output_gram(weights.fc2_weight, site.metric), block=block)
    assert curve.order.tolist() == order
    torch.testing.assert_close(
        curve.errors, torch.tensor(errors, dtype=torch.float64), rtol=1e-8, atol=1e-8 * errors[-1]
    )


def test_the_curve_is_the_error_of_the_linear_compensation_on_the_samples():
    site, weights = random_site(20, 6, metric=True)
    curve = eliminate(site.moments.covariance, output_gram(weights.fc2_weight, site.metric), block=4)
    for width in (3, 10, 17):
        kept = curve.kept(width)
        fc2_weight, fc2_bias = compensate("linear", weights, kept, site, ridge=0.0)
        observed = output_error(site, weights, kept, fc2_weight, fc2_bias)
        assert curve.errors[20 - width].item() == pytest.approx(observed, rel=1e-8)


@pytest.mark.parametrize("block", [1, 16, 100])
def test_removing_all_costs_the_whole_variance_of_the_output(block):
    covariance = torch.cov(random_samples(150, 900, seed=5).T)
    fc2_weight = torch.randn(20, 150, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curve = eliminate(covariance, output_gram(fc2_weight), block=block)
    total = torch.trace(fc2_weight @ covariance @ fc2_weight.T).item()
    assert curve.errors[-1].item() == pytest.approx(total, rel=1e-9)
    assert sorted(curve.order.tolist()) == list(range(150))
    assert (curve.costs >= 0).all()


def test_kept_sets_are_nested():
    site, weights = random_site()
    curve = eliminate(site.moments.covariance, output_gram(weights.fc2_weight))
    kept = [set(curve.kept(width).tolist()) for width in range(13)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(kept))


def test_constant_neurons_are_removed_first_at_no_cost():
    site, weights = random_site()
    covariance = site.moments.covariance
    for dead in (7, 2):
        covariance[dead] = 0
        covariance[:, dead] = 0
    curve = eliminate(covariance, output_gram(weights.fc2_weight))
    assert curve.order[:2].tolist() == [2, 7]
    assert curve.costs[:2].tolist() == [0.0, 0.0]
    assert curve.costs[2] > 0


def test_equal_neurons_cost_nothing_until_the_last_of_them():
    site, weights = random_site()
    covariance = site.moments.covariance
    covariance[:, 4], covariance[4] = covariance[:, 1].clone(), covariance[1].clone()
    covariance[4, 4] = covariance[1, 1]
    covariance.diagonal().add_(1e-9 * covariance.diagonal().mean())
    curve = eliminate(covariance, output_gram(weights.fc2_weight))
    assert curve.order[0].item() in (1, 4)
    assert curve.costs[0] < 1e-6 * curve.costs[1]


@pytest.mark.parametrize("hidden", [0, 1])
def test_the_smallest_sites(hidden):
    covariance = torch.eye(hidden, dtype=torch.float64) * 2
    curve = eliminate(covariance, torch.ones(hidden, hidden, dtype=torch.float64) * 3)
    assert curve.order.tolist() == list(range(hidden))
    assert curve.costs.tolist() == pytest.approx([6.0] * hidden)
    assert curve.kept(0).tolist() == []


def test_progress_reaches_all_neurons():
    calls = []
    site, weights = random_site()
    eliminate(
        site.moments.covariance,
        output_gram(weights.fc2_weight),
        block=5,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(5, 12), (10, 12), (12, 12)]


def test_a_curve_is_unchanged_by_saving():
    site, weights = random_site()
    curve = eliminate(site.moments.covariance, output_gram(weights.fc2_weight))
    again = EliminationCurve.from_tensors(curve.to_tensors())
    assert torch.equal(again.order, curve.order)
    assert torch.equal(again.costs, curve.costs)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"order": torch.arange(3)}, "costs"),
        ({"order": torch.tensor([0, 0, 1]), "costs": torch.zeros(3).double()}, "permutation"),
        ({"order": torch.arange(3), "costs": torch.zeros(2).double()}, "one per neuron"),
        ({"order": torch.arange(2), "costs": torch.tensor([0.0, float("nan")])}, "finite"),
        ({"order": torch.arange(2), "costs": torch.tensor([0.0, -1.0])}, "0 or more"),
    ],
)
def test_a_damaged_curve_is_refused(tensors, match):
    with pytest.raises(StatisticsError, match=match):
        EliminationCurve.from_tensors(tensors)


def test_bad_input_is_refused():
    eye = torch.eye(3, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="block"):
        eliminate(eye, eye, block=0)
    with pytest.raises(ConfigurationError, match=r"\(3, 3\) and \(2, 2\)"):
        eliminate(eye, eye[:2, :2])
    with pytest.raises(NonFiniteError):
        eliminate(eye * float("nan"), eye)
    with pytest.raises(StatisticsError, match="ridge"):
        eliminate(torch.ones(3, 3, dtype=torch.float64), eye)
    with pytest.raises(ConfigurationError, match="between 0 and 3"):
        eliminate(eye, eye).kept(4)


@pytest.mark.slow
def test_rounding_errors_are_small_at_the_width_of_deit_base():
    hidden, out = 3072, 768
    samples = random_samples(hidden, 2 * hidden, seed=3, rank=600).float()
    samples = samples.double() + torch.randn(samples.shape, generator=torch.Generator().manual_seed(4)) * 0.1
    covariance = torch.cov(samples.T)
    covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
    fc2_weight = torch.randn(out, hidden, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    curve = eliminate(covariance, output_gram(fc2_weight))
    kept = curve.kept(hidden // 2)
    gone = curve.order[: hidden - hidden // 2]
    factor = torch.linalg.cholesky(covariance[kept][:, kept])
    cross = covariance[gone][:, kept]
    residual = covariance[gone][:, gone] - cross @ torch.cholesky_solve(cross.T, factor)
    true = torch.trace(fc2_weight[:, gone] @ residual @ fc2_weight[:, gone].T).item()
    assert curve.errors[hidden - hidden // 2].item() == pytest.approx(true, rel=1e-8)


@pytest.mark.parametrize("variance", [1e-31, 1e-100, 1e-250])
@pytest.mark.parametrize("tokens", [40, 900])
def test_variances_near_zero_give_the_curve_of_ordinary_ones(variance, tokens):
    covariance = torch.cov(random_samples(100, tokens, seed=3).T)
    covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
    gram = output_gram(torch.randn(5, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    expected, curve = eliminate(covariance, gram), eliminate(covariance * variance, gram)
    assert curve.order.tolist() == expected.order.tolist()
    torch.testing.assert_close(curve.costs / variance, expected.costs, rtol=1e-6, atol=1e-9)


def test_the_units_of_the_neurons_do_not_matter():
    covariance = torch.cov(random_samples(60, 500, seed=4).T)
    fc2_weight = torch.randn(5, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    units = torch.logspace(-120, 120, 60, dtype=torch.float64)
    expected = eliminate(covariance, output_gram(fc2_weight))
    curve = eliminate(covariance * units * units[:, None], output_gram(fc2_weight / units))
    assert curve.order.tolist() == expected.order.tolist()
    torch.testing.assert_close(curve.costs, expected.costs, rtol=1e-6, atol=1e-9)


def test_costs_beyond_float64_are_refused():
    covariance = 1e300 * torch.eye(3, dtype=torch.float64)
    with pytest.raises(StatisticsError, match="exceed the range of float64"):
        eliminate(covariance, output_gram(1e100 * torch.ones(2, 3, dtype=torch.float64)))
