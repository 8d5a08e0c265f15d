"""Predicted damage against the error that is observed, sample by sample."""

import pytest
import torch

from hf_vbp.compensation.base import compensate
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.pruning.damage import predict_damage
from tests.maths_helpers import output_error, random_site

KEPT = [torch.tensor([1, 4, 5, 9, 10]), torch.arange(12), torch.tensor([], dtype=torch.int64)]


def sites(**changes):
    pairs = [random_site(12, 5, seed=seed, **changes) for seed in range(3)]
    return [site for site, _ in pairs], [weights for _, weights in pairs]


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("compensation", ["none", "mean", "linear"])
def test_prediction_equals_the_observation_on_the_calibration_samples(compensation, metric):
    statistics, weights = sites(metric=metric)
    damage = predict_damage(compensation, statistics, weights, KEPT)
    assert damage.metric == ("gradient" if metric else "identity")
    for site, site_weights, kept, predicted in zip(statistics, weights, KEPT, damage.sites, strict=True):
        fc2_weight, fc2_bias = compensate(compensation, site_weights, kept, site)
        observed = output_error(site, site_weights, kept, fc2_weight, fc2_bias)
        count = len(site.samples)
        # The covariance divides by n - 1 and the squared mean by n; the helper divides all by n - 1.
        offset = (site.samples @ site_weights.fc2_weight.T - site.samples[:, kept] @ fc2_weight.T).mean(0)
        offset = offset + site_weights.fc2_bias - fc2_bias
        of_mean = offset @ (offset if site.metric is None else site.metric @ offset)
        assert predicted.error == pytest.approx(observed - of_mean.item() / (count - 1), rel=1e-9, abs=1e-12)
        assert predicted.exact


def test_an_unchanged_site_has_no_damage_and_an_emptied_one_a_relative_damage_of_one():
    statistics, weights = sites()
    damage = predict_damage("mean", statistics, weights, KEPT)
    assert damage.sites[1].error == 0.0
    assert damage.sites[2].relative == pytest.approx(1.0)
    assert damage.sites[0].relative > 0


def test_predicted_damage_falls_from_none_to_mean_to_linear():
    statistics, weights = sites(metric=True)
    none, mean, linear = (predict_damage(c, statistics, weights, KEPT).relative for c in ("none", "mean", "linear"))
    assert none > mean > linear


def test_variances_without_covariances_give_the_sum_over_neurons():
    statistics, weights = sites()
    statistics = [site.without_covariances() for site in statistics]
    damage = predict_damage("mean", statistics, weights, KEPT)
    pruned = [j for j in range(12) if j not in KEPT[0].tolist()]
    squared = weights[0].fc2_weight[:, pruned].square().sum(0)
    expected = (squared * statistics[0].moments.variance[pruned]).sum().item()
    assert damage.sites[0].error == pytest.approx(expected)
    assert not damage.sites[0].exact
    assert damage.to_dict()["exact"] is False
    with pytest.raises(StatisticsError, match="hold variances only"):
        predict_damage("linear", statistics, weights, KEPT)


def test_a_site_without_bias():
    statistics, weights = sites(bias=False)
    damage = predict_damage("mean", statistics, weights, KEPT)
    fc2_weight, fc2_bias = compensate("mean", weights[0], KEPT[0], statistics[0])
    observed = output_error(statistics[0], weights[0], KEPT[0], fc2_weight, fc2_bias)
    assert damage.sites[0].error == pytest.approx(observed, rel=1e-9)


def test_a_site_that_never_changes_has_no_energy():
    site, weights = random_site()
    site = site.with_samples(torch.arange(12, dtype=torch.float64).repeat(9, 1))
    assert predict_damage("linear", [site], [weights], KEPT[:1]).relative == 0.0
    assert predict_damage("none", [site], [weights], KEPT[:1]).sites[0].relative == 1.0


def test_the_dict_holds_plain_numbers():
    statistics, weights = sites(metric=True)
    described = predict_damage("linear", statistics, weights, KEPT).to_dict()
    assert described["metric"] == "gradient"
    assert len(described["relative_output_error_by_site"]) == 3
    assert 0 < described["relative_output_error"] < 1


def test_bad_requests():
    statistics, weights = sites()
    with pytest.raises(ConfigurationError, match="Unknown metric 'fisher'"):
        predict_damage("mean", statistics, weights, KEPT, metric="fisher")
    with pytest.raises(ConfigurationError, match="output metric"):
        predict_damage("mean", statistics, weights, KEPT, metric="gradient")
    with pytest.raises(StatisticsError, match="2 sites"):
        predict_damage("mean", statistics[:2], weights, KEPT)
