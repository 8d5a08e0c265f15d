"""Two halves of one pass, compared, and the tables of the command line."""

import json
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.errors import ConfigurationError
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics
from hf_vbp.statistics.split_halves import halves_agreement, rank_correlation
from hf_vbp.statistics.table import site_rows
from tests.calibration.helpers import DIAGONAL, images, in_batches


def made(first: list[list[float]], second: list[list[float]]) -> ActivationStatistics:
    """Return statistics whose halves have the given variances, site by site."""

    def moments(variance: list[float]) -> Moments:
        return Moments(11, torch.zeros(len(variance)).double(), 10 * torch.tensor(variance).double())

    sites = tuple(
        SiteStatistics(f"site{index}", index, moments(a).merge(moments(b)), None, (moments(a), moments(b)))
        for index, (a, b) in enumerate(zip(first, second, strict=True))
    )
    return ActivationStatistics(sites, {"images": 40, "moments": "diagonal", "model": {"id": "some/model"}})


def test_agreement_counts_the_neurons_that_both_halves_keep() -> None:
    statistics = made([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 3], [8, 7, 6, 5]])
    agreement = halves_agreement(statistics, ratios=(0.25, 0.5))
    assert agreement is not None
    assert [(o.ratio, o.kept, o.pruned) for o in agreement.overlaps] == [(0.25, 1.0, 1.0), (0.5, 0.75, 0.75)]
    assert agreement.lowest_site == "site1"
    assert agreement.lowest_site_rank_correlation == pytest.approx(-1)
    expected = spearmanr([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 9, 3, 8, 7, 6, 5]).statistic
    assert agreement.rank_correlation == pytest.approx(expected)
    assert json.loads(json.dumps(agreement.to_dict()))["overlaps"][1]["kept"] == 0.75


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_rank_correlation_is_that_of_scipy_with_ties(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    first = torch.randint(0, levels, (200,), generator=generator).double()
    second = first + torch.randint(0, levels, (200,), generator=generator)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_rank_correlation_of_constants() -> None:
    constant, other = torch.ones(4), torch.arange(4.0)
    assert rank_correlation(constant, constant) == 1
    assert rank_correlation(constant, other) == 0


def test_similar_halves_agree_and_a_short_pass_has_none(vit: Any) -> None:
    agreement = halves_agreement(collect_statistics(vit, in_batches(images(64), 16), DIAGONAL))
    assert agreement is not None
    assert agreement.rank_correlation > 0.9
    assert agreement.tokens == (32 * 17, 32 * 17)
    assert all(0 <= overlap.pruned <= 1 and 0 <= overlap.kept <= 1 for overlap in agreement.overlaps)
    assert halves_agreement(collect_statistics(vit, in_batches(images(9), 3), DIAGONAL)) is None
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        halves_agreement(made([[1, 2]], [[1, 2]]), ratios=(50,))


def test_rows_show_widths_and_variances() -> None:
    statistics = made([[0, 1, 2, 1e-9]], [[0, 1, 2, 1e-9]])
    (row,) = site_rows(statistics)
    assert (row.index, row.name, row.width, row.tokens) == (0, "site0", 4, 22)
    assert row.nearly_constant == 0.5
    assert row.smallest_variance == 0
    assert row.largest_variance == pytest.approx(40 / 21)
