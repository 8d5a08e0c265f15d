"""The criterion obs: curves merged over sites."""

from dataclasses import replace

import pytest
import torch

from hf_vbp.criteria import obs
from hf_vbp.criteria.base import rank
from hf_vbp.criteria.elimination import eliminate, output_gram
from hf_vbp.criteria.obs import Obs, elimination_curves
from hf_vbp.errors import ConfigurationError, StatisticsError
from tests.maths_helpers import random_site


def sites(*, metric):
    pairs = [random_site(14, 5, seed=seed, metric=metric) for seed in range(3)]
    return [site for site, _ in pairs], [weights for _, weights in pairs]


def ridged(site, ridge=1e-3):
    covariance = site.moments.covariance
    covariance.diagonal().mul_(1 + ridge)
    return covariance


def test_the_order_within_a_site_is_that_of_its_elimination():
    statistics, weights = sites(metric=True)
    for site, site_weights, ranking in zip(statistics, weights, rank("obs", statistics, weights), strict=True):
        curve = eliminate(ridged(site), output_gram(site_weights.fc2_weight, site.metric))
        assert ranking.order().tolist() == curve.order.tolist()
        assert (ranking.scores[curve.order].diff() >= 0).all()


def test_the_highest_cost_so_far_is_the_score():
    statistics, weights = sites(metric=False)
    (curve, *_) = elimination_curves(statistics, weights)
    (ranking, *_) = rank("obs", statistics, weights)
    for position, neuron in enumerate(curve.order):
        assert ranking.scores[neuron] == curve.costs[: position + 1].max()


def test_curves_that_were_computed_before_are_read_where_their_options_fit(monkeypatch):
    statistics, weights = sites(metric=True)
    held = Obs().precompute(statistics, weights)
    expected = [rank("obs", statistics, weights), rank("obs", statistics, weights, ridge=1e-2)]
    runs = []
    monkeypatch.setattr(obs, "eliminate", lambda *args, **kwargs: runs.append(1) or eliminate(*args, **kwargs))
    read, computed = rank("obs", held, weights), rank("obs", held, weights, ridge=1e-2)
    assert len(runs) == 3
    for ours, theirs in zip(expected, (read, computed), strict=True):
        assert all(torch.equal(a.scores, b.scores) for a, b in zip(ours, theirs, strict=True))


def test_the_gradient_metric_is_used_where_all_sites_have_one():
    statistics, weights = sites(metric=True)
    chosen = rank("obs", statistics, weights)
    gradient = rank("obs", statistics, weights, metric="gradient")
    identity = rank("obs", statistics, weights, metric="identity")
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(chosen, gradient, strict=True))
    assert not any(torch.equal(a.scores, b.scores) for a, b in zip(chosen, identity, strict=True))
    statistics[1] = replace(statistics[1], metric=None)
    fallen_back = rank("obs", statistics, weights)
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(fallen_back, identity, strict=True))


def test_greedy_choice_beats_variance_at_every_width():
    statistics, weights = sites(metric=False)
    for site, site_weights, by_obs, by_variance in zip(
        statistics, weights, rank("obs", statistics, weights), rank("variance", statistics, weights), strict=True
    ):
        covariance = ridged(site)

        def error(gone, covariance=covariance, fc2_weight=site_weights.fc2_weight):
            kept = torch.tensor([j for j in range(14) if j not in gone.tolist()])
            cross = covariance[gone][:, kept]
            residual = covariance[gone][:, gone] - cross @ torch.linalg.solve(covariance[kept][:, kept], cross.T)
            return torch.trace(fc2_weight[:, gone] @ residual @ fc2_weight[:, gone].T).item()

        for removed in (2, 5, 8):
            assert error(by_obs.order()[:removed]) <= error(by_variance.order()[:removed]) * (1 + 1e-9)


def test_progress_counts_sites():
    calls = []
    statistics, weights = sites(metric=False)
    elimination_curves(statistics, weights, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_errors_name_the_missing_statistics():
    statistics, weights = sites(metric=False)
    with pytest.raises(StatisticsError, match="no output metric"):
        rank("obs", statistics, weights, metric="gradient")
    with pytest.raises(ConfigurationError, match="Unknown metric 'fisher'"):
        rank("obs", statistics, weights, metric="fisher")
    with pytest.raises(ConfigurationError, match="ridge"):
        rank("obs", statistics, weights, ridge=-1)
    statistics[2] = statistics[2].with_samples(statistics[2].samples[:5])
    with pytest.raises(StatisticsError, match=r"encoder\.layers\.2\.mlp.*singular"):
        rank("obs", statistics, weights, ridge=0)
    statistics[1] = statistics[1].without_covariances()
    with pytest.raises(StatisticsError, match=r"encoder\.layers\.1\.mlp"):
        rank("obs", statistics, weights)
