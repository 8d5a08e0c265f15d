"""Plans for budgets that differ from those at which merged tokens were measured."""

import warnings
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, current_conditions
from hf_vbp.errors import ConfigurationError
from hf_vbp.pruning.levers import LeverWarning, counts_for
from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements

Batches = list[dict[str, torch.Tensor]]
DENSE, NARROW = (48, 48, 48), (1, 1, 1)


def measured(vit: Any, batches: Batches, points: list[LeverMeasurement], config: VBPConfig) -> Any:
    statistics = hf_vbp.collect_statistics(vit, batches, config)
    return statistics.with_measurements(LeverMeasurements(config.method, 8, tuple(points)))


def line(vit: Any, number: int, low: float, high: float) -> list[LeverMeasurement]:
    merged = counts_for(vit, number)
    return [LeverMeasurement(merged, DENSE, low), LeverMeasurement(merged, NARROW, high)]


def test_every_measured_number_of_merged_tokens_is_a_candidate(vit: Any, batches: Batches) -> None:
    # At 0.6 the numbers 8, 7, 6, 4 and 0 would be measured.
    config = VBPConfig(target_macs=0.6)
    few = measured(vit, batches, [*line(vit, 5, 0.01, 0.1), *line(vit, 8, 0.2, 0.3)], config)
    with pytest.warns(LeverWarning, match=r"for 2 numbers of merged tokens.*hf_vbp\.measure_levers"):
        plan = hf_vbp.make_plan(vit, few, config)
    assert plan.merged_tokens == counts_for(vit, 5)
    assert 0.55 < plan.achieved <= 0.6
    points = [point for number, low in ((5, 0.01), (8, 0.2), (7, 0.5)) for point in line(vit, number, low, low + 0.1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hf_vbp.make_plan(vit, measured(vit, batches, points, config), config).merged_tokens == counts_for(
            vit, 5
        )


def test_models_that_merge_far_more_than_the_budget_needs_are_taken_with_a_warning(vit: Any, batches: Batches) -> None:
    config = VBPConfig(target_macs=0.85)
    points = [point for number in (6, 7, 8) for point in line(vit, number, 0.1 * number, 1.0)]
    with pytest.warns(LeverWarning, match="for no number of merged tokens"):
        plan = hf_vbp.make_plan(vit, measured(vit, batches, points, config), config)
    assert plan.merged_tokens == counts_for(vit, 6)


def test_measured_models_far_below_a_latency_budget_are_taken_with_a_warning(vit: Any, batches: Batches) -> None:
    config = VBPConfig(target_latency=0.9, round_to=1)
    figures = {"speedup": 2.0, "speedup_interval": [1.9, 2.1], "dense_ms": 10.0, "pruned_ms": 5.0}
    latency = {**current_conditions(vit, LatencyOptions(batch=1)), **figures}
    statistics = measured(vit, batches, [LeverMeasurement(counts_for(vit, 5), DENSE, 0.1, latency)], config)
    with pytest.warns(LeverWarning, match=r"far from this budget: .* share of 0\.500 .* 0\.900 was asked for"):
        plan = hf_vbp.make_plan(vit, statistics, config)
    assert (plan.merged_tokens, plan.latency["speedup"]) == (counts_for(vit, 5), 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_vbp.make_plan(vit, statistics, VBPConfig(target_latency=0.55, round_to=1))


def test_tokens_alone_are_not_chosen_among_more_than_the_budget_needs(vit: Any, batches: Batches) -> None:
    config = VBPConfig(target_macs=0.85, levers=("tokens",))
    statistics = measured(vit, batches, line(vit, 8, 0.2, 0.3), config)
    with pytest.raises(
        ConfigurationError, match=r"--merge-tokens, merge_tokens from Python.*hf-vbp prune --statistics"
    ):
        hf_vbp.make_plan(vit, statistics, config)
