"""Budget and selection: the cut is where a brute-force search puts it, on every kind of budget."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vbp.config.budget import Budget
from hf_vbp.config.limits import Limits
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.pruning.removal_order import RemovalOrder

WIDTHS = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def rankings_for(widths: Sequence[int], seed: int = 0, *, levels: int = 5) -> list[Ranking]:
    generator = torch.Generator().manual_seed(seed)
    return [Ranking.from_scores(torch.randint(0, levels, (width,), generator=generator).double()) for width in widths]


def removed_share(widths: Sequence[int], dense: Sequence[int]) -> float:
    return 1 - sum(widths) / sum(dense)


@given(widths=WIDTHS, seed=st.integers(0, 99), ratio=st.floats(0.05, 0.6))
@settings(deadline=None, max_examples=60)
def test_global_removes_the_lowest_scores_of_the_whole_network(widths: list[int], seed: int, ratio: float) -> None:
    rankings = rankings_for(widths, seed)
    order = RemovalOrder(rankings, limits=Limits(minimum_width=0))
    cut = order.cut_for(Budget("ratio", ratio), lambda kept: removed_share(kept, widths))
    # Independent: plain Python sort of (score, site, index), the first ceil(ratio * n) are removed.
    flat = sorted((float(s), i, j) for i, r in enumerate(rankings) for j, s in enumerate(r.scores))
    number = next(n for n in range(len(flat) + 1) if n / len(flat) >= ratio - 1e-9)
    gone = {(i, j) for _, i, j in flat[:number]}
    expected = [[j for j in range(width) if (i, j) not in gone] for i, width in enumerate(widths)]
    assert [indices.tolist() for indices in order.kept(cut)] == expected


@given(widths=WIDTHS, seed=st.integers(0, 99), floor=st.integers(0, 4), multiple=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_limits_hold_at_every_cut_and_widths_never_grow(
    widths: list[int], seed: int, floor: int, multiple: int
) -> None:
    order = RemovalOrder(rankings_for(widths, seed), limits=Limits(floor, multiple))
    previous = list(widths)
    for cut in order.cuts:
        now = order.widths(cut)
        assert all(min(floor, dense) <= width <= before for width, before, dense in zip(now, previous, widths))
        assert all(width % multiple == 0 or width == dense for width, dense in zip(now, widths))
        previous = now


@given(seed=st.integers(0, 99), first=st.floats(0.1, 0.4), second=st.floats(0.41, 0.8))
@settings(deadline=None, max_examples=30)
def test_plans_for_growing_ratios_are_nested(seed: int, first: float, second: float) -> None:
    order = RemovalOrder(rankings_for([16, 16, 16], seed))
    small, large = (
        order.kept(order.cut_for(Budget("ratio", r), lambda kept: removed_share(kept, [16] * 3)))
        for r in (first, second)
    )
    assert all(set(b.tolist()) <= set(a.tolist()) for a, b in zip(small, large))


def test_layer_scope_keeps_equal_sites_equal() -> None:
    order = RemovalOrder(rankings_for([10, 10, 10]), scope="layer")
    cut = order.cut_for(Budget("ratio", 0.25), lambda kept: removed_share(kept, [10] * 3))
    assert order.widths(cut) == [7, 7, 7]


def test_ties_are_broken_by_site_then_by_the_ranking() -> None:
    same = Ranking(torch.zeros(3, dtype=torch.float64), torch.tensor([2, 0, 1]))
    order = RemovalOrder([same, same], limits=Limits(minimum_width=0))
    assert [indices.tolist() for indices in order.kept(2)] == [[0], [0, 1, 2]]


def test_a_site_keeps_its_minimum_width() -> None:
    low = Ranking.from_scores(torch.zeros(4, dtype=torch.float64))
    high = Ranking.from_scores(torch.ones(4, dtype=torch.float64))
    order = RemovalOrder([low, high], limits=Limits(minimum_width=2))
    assert order.widths(order.cuts[-1]) == [2, 2]
    assert order.widths(3) == [2, 3]


def test_a_budget_that_cannot_be_met_reports_the_reachable_one() -> None:
    order = RemovalOrder(rankings_for([4, 4]), limits=Limits(minimum_width=2))
    with pytest.raises(BudgetError, match=r"0.9 cannot be reached by pruning the MLPs; at most a share of 0.5 can be"):
        order.cut_for(Budget("ratio", 0.9), lambda kept: removed_share(kept, [4, 4]))
    with pytest.raises(BudgetError, match=r"MACs: 0.3 cannot be reached.*no less than a share of 0.75.*The ceiling"):
        order.cut_for(Budget("macs", 0.3), lambda kept: 0.5 + sum(kept) / 16, ceiling="The ceiling.")


@pytest.mark.parametrize("asked", [0, 1, -0.1, 1.5, 55, float("nan"), True, "0.5"])
def test_a_share_outside_zero_and_one_is_refused(asked: object) -> None:
    with pytest.raises(BudgetError, match="must be between 0 and 1"):
        Budget("ratio", asked)  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="Unknown budget 'flops'"):
        Budget("flops", 0.5)
    with pytest.raises(ConfigurationError, match="Unknown scope 'block'"):
        RemovalOrder(rankings_for([2]), scope="block")
    with pytest.raises(ConfigurationError, match="minimum_width must be a whole number of at least 0"):
        Limits(minimum_width=-1)
    with pytest.raises(ConfigurationError, match="round_to must be a whole number of at least 1"):
        Limits(round_to=0)
