"""Criteria against formulas written out neuron by neuron."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.config.registry import CRITERIA
from hf_vbp.criteria.base import Criterion, Ranking, rank, register_criterion
from hf_vbp.criteria.variance import Variance
from hf_vbp.errors import ConfigurationError, NonFiniteError, StatisticsError
from hf_vbp.modeling.modeling_hf_vbp import Layout
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics
from tests.maths_helpers import random_site


@pytest.fixture
def sites():
    pairs = [random_site(12, 5, seed=0), random_site(7, 5, seed=1, bias=False)]
    return [site for site, _ in pairs], [weights for _, weights in pairs]


def test_variance_is_the_raw_sample_variance(sites):
    statistics, weights = sites
    for site, ranking in zip(statistics, rank("variance", statistics, weights), strict=True):
        expected = [site.samples[:, j].var(unbiased=True).item() for j in range(site.samples.shape[1])]
        torch.testing.assert_close(ranking.scores, torch.tensor(expected, dtype=torch.float64))
        assert ranking.ties.tolist() == list(range(len(expected)))


def test_variance_needs_no_covariances(sites):
    statistics, weights = sites
    diagonal = [site.without_covariances() for site in statistics]
    for full, only in zip(rank("variance", statistics, weights), rank("variance", diagonal, weights), strict=True):
        torch.testing.assert_close(full.scores, only.scores, rtol=1e-12, atol=0)


def test_weighted_variance_is_the_output_error_of_replacing_one_neuron_by_its_mean(sites):
    statistics, weights = sites
    for site, site_weights, ranking in zip(
        statistics, weights, rank("weighted-variance", statistics, weights), strict=True
    ):
        for j in range(site_weights.hidden):
            replaced = site.samples.clone()
            replaced[:, j] = replaced[:, j].mean()
            error = (site.samples - replaced) @ site_weights.fc2_weight.T
            expected = error.square().sum() / (len(error) - 1)
            assert ranking.scores[j].item() == pytest.approx(expected.item(), rel=1e-10)


def test_magnitude_is_the_norm_of_all_weights_of_the_neuron(sites):
    statistics, weights = sites
    for site_weights, ranking in zip(weights, rank("magnitude", statistics, weights), strict=True):
        for j in range(site_weights.hidden):
            parts = [site_weights.fc1_weight[j], site_weights.fc2_weight[:, j]]
            if site_weights.fc1_bias is not None:
                parts.append(site_weights.fc1_bias[j : j + 1])
            assert ranking.scores[j].item() == pytest.approx(torch.cat(parts).norm().item(), rel=1e-12)


def test_random_depends_only_on_the_seed(sites):
    statistics, weights = sites
    first, again, other = (rank("random", statistics, weights, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.scores, b.scores) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.scores, b.scores) for a, b in zip(first, other, strict=True))
    with pytest.raises(ConfigurationError, match="seed"):
        rank("random", statistics, weights, seed=-1)


def test_ranking_order_breaks_equal_scores_by_ties():
    ranking = Ranking(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([3, 9, 1, 2]))
    assert ranking.order().tolist() == [1, 2, 3, 0]


def test_an_unknown_criterion_lists_the_known_ones(sites):
    with pytest.raises(ConfigurationError, match=r"variance"):
        rank("varience", *sites)


def test_a_name_is_registered_once():
    @dataclass(frozen=True)
    class Other(Criterion):
        name = "variance"

        def rank(self, statistics, weights):
            return []

    with pytest.raises(ConfigurationError, match="There is a criterion 'variance' already"):
        register_criterion(Other)
    # The same class again, as after a reload of its module, is no conflict.
    assert register_criterion(CRITERIA.get("variance")) is CRITERIA.get("variance")


def test_statistics_of_another_model_are_refused(sites):
    statistics, weights = sites
    with pytest.raises(StatisticsError, match="2 sites and the model 1"):
        rank("variance", statistics, weights[:1])
    with pytest.raises(StatisticsError, match="7 hidden neurons and its statistics 12"):
        rank("variance", statistics[:1], weights[1:])


def test_scores_that_are_not_finite_name_the_site(sites):
    statistics, weights = sites
    weights[0].fc2_weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"encoder\.layers\.0\.mlp"):
        rank("weighted-variance", statistics, weights)


def scores(width: int) -> Ranking:
    return Ranking.from_scores(torch.ones(width, dtype=torch.float64))


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        ([scores(12), scores(3)], r"gave 3 scores for site 'encoder\.layers\.1\.mlp', expected 7, one per hidden"),
        ([scores(12)], "gave 1 rankings, expected a list of 2, one Ranking per site"),
        ([scores(12), scores(7), scores(7)], "gave 3 rankings, expected a list of 2"),
        (None, "gave a NoneType, expected a list of 2"),
        ([torch.ones(12), torch.ones(7)], r"gave a Tensor for site '.*', expected a Ranking; make one with"),
        ([Ranking([1.0] * 12, torch.arange(12)), scores(7)], r"gave scores of type list .* a tensor of shape \(12,\)"),
        ([Ranking(torch.ones(12, 1), torch.arange(12)), scores(7)], r"gave scores of shape \(12, 1\) .*shape \(12,\)"),
        ([Ranking(torch.ones(12), torch.arange(11)), scores(7)], "gave 11 ties for site .*, expected 12"),
    ],
)
def test_rankings_of_a_users_criterion_are_checked(sites, rankings, message):
    @dataclass(frozen=True)
    class Broken(Criterion):
        name = "broken"

        def rank(self, statistics, weights):
            return rankings

    with pytest.raises(ConfigurationError, match=f"^criterion 'broken' {message}"):
        rank(Broken(), *sites)


def test_an_error_of_a_users_criterion_names_it(sites, monkeypatch):
    @dataclass(frozen=True)
    class Broken(Criterion):
        name = "broken"

        def rank(self, statistics, weights):
            raise KeyError("x")

    with pytest.raises(ConfigurationError, match=r"^rank of criterion 'broken' raised KeyError: 'x'\.") as raised:
        rank(Broken(), *sites)
    assert isinstance(raised.value.__cause__, KeyError)
    # An error of a built-in criterion is a fault of this package, and is not ascribed to the user.
    monkeypatch.setattr(Variance, "rank", Broken.rank)
    with pytest.raises(KeyError):
        rank("variance", *sites)


def test_site_weights_are_copies_in_float64():
    mlp = nn.Module()
    mlp.fc1, mlp.fc2 = nn.Linear(3, 6, dtype=torch.float64), nn.Linear(6, 3, bias=False, dtype=torch.float64)
    site = MLPSite.named(0, mlp, Layout(("fc1",), "fc2"))
    before = copy.deepcopy(mlp.fc1.weight)
    weights = SiteWeights.of(site)
    weights.fc1_weight.zero_()
    assert torch.equal(mlp.fc1.weight, before)
    assert weights.fc2_bias is None
    assert weights.hidden == 6
    assert weights.fc1_bias.dtype == torch.float64
    assert not weights.fc2_weight.requires_grad


@pytest.mark.parametrize("name", ["variance", "weighted-variance", "magnitude", "random"])
def test_a_site_without_neurons_is_ranked(name):
    site = SiteStatistics("empty", 0, Moments(4, *torch.zeros(2, 0).double(), torch.zeros(0, 0).double()))
    weights = SiteWeights(torch.zeros(0, 3).double(), None, torch.zeros(3, 0).double(), None)
    (ranking,) = rank(name, [site], [weights])
    assert ranking.scores.shape == (0,)
