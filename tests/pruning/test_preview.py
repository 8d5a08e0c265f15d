"""Previews, against the plans that they announce."""

from typing import Any

import pytest
import torch

from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.pruning.make_plan import make_plan, rank_sites
from hf_vbp.pruning.preview import DamageCurve, Previewer, damage_curves
from hf_vbp.statistics.lever_measurements import LeverMeasurement, LeverMeasurements


@pytest.fixture
def parts(vit: Any, batches: Any) -> tuple[Any, Any, Any, Previewer]:
    prepared, config = prepare(vit), VBPConfig()
    statistics = collect_statistics(prepared, batches, config)
    rankings = rank_sites(prepared, statistics, config)
    curves = damage_curves(prepared, statistics, rankings, config)
    return prepared, statistics, rankings, Previewer(prepared, rankings, curves)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(
    "budget", [{"ratio": 0.13}, {"ratio": 0.5}, {"ratio": 0.85}, {"target_parameters": 0.8}, {"target_macs": 0.75}]
)
def test_a_preview_is_the_plan(parts: Any, budget: dict[str, float], scope: str) -> None:
    prepared, statistics, rankings, previewer = parts
    config = VBPConfig(scope=scope, levers=("mlp",), **budget)
    plan, preview = make_plan(prepared, statistics, config, rankings=rankings), previewer.of(config)
    assert list(preview.widths) == plan.widths
    assert preview.cost == plan.cost["pruned"]
    assert preview.dense == plan.cost["dense"]
    # The error alone is interpolated.
    assert preview.predicted == pytest.approx(plan.predicted["relative_output_error"], rel=0.1)


def test_the_error_is_exact_at_the_computed_widths(parts: Any) -> None:
    prepared, statistics, rankings, previewer = parts
    # Half of the neurons of every layer is one of them.
    config = VBPConfig(scope="layer", ratio=0.5)
    plan = make_plan(prepared, statistics, config, rankings=rankings)
    assert previewer.of(config).predicted == pytest.approx(plan.predicted["relative_output_error"], rel=1e-12)


def test_the_forward_pass_is_not_run_again(parts: Any) -> None:
    prepared, _, _, previewer = parts
    previewer.of(VBPConfig(ratio=0.5))

    def refuse(*_: Any) -> None:
        raise AssertionError("a forward pass")

    handle = prepared.model.register_forward_pre_hook(refuse)
    previewer.of(VBPConfig(ratio=0.4))
    previewer.of(VBPConfig(target_macs=0.8, levers=("mlp",)))
    handle.remove()


def test_between_two_widths_the_error_is_a_power_of_the_removed_neurons() -> None:
    exact = [(100 - width) ** 3.0 for width in (10, 50, 90, 100)]
    curve = DamageCurve((10, 50, 90, 100), tuple(exact), 1.0)
    for width in (20, 50, 77, 90):
        assert curve.at(width) == pytest.approx((100 - width) ** 3.0)
    assert curve.at(95) == pytest.approx(exact[2] / 2)
    assert curve.at(100) == 0


def point(merged: tuple[int, ...], widths: list[int], distance: float, latency: float) -> LeverMeasurement:
    return LeverMeasurement(merged, tuple(widths), distance, {"speedup": 1 / latency, "dense_ms": 10.0})


def test_merged_tokens_and_latency_are_read_from_the_measurements(parts: Any) -> None:
    prepared, _, _, previewer = parts
    dense, narrow, merged = prepared.widths, [1, 1, 1], (0, 4, 4)
    config = VBPConfig(target_latency=0.8)
    points = (point((), narrow, 2.0, 0.6), point(merged, dense, 0.25, 0.9), point(merged, narrow, 1.25, 0.5))
    measured = LeverMeasurements(config.method, 8, points)
    found = previewer.of(config, measured)
    assert found.merged_tokens == merged
    assert found.latency == pytest.approx(0.8, abs=0.01)
    # A quarter of the way from the dense widths to the narrow ones.
    assert found.distance == pytest.approx(0.25 + (0.9 - found.latency) / 0.4, abs=0.01)
    alone = previewer.of(VBPConfig(target_latency=0.8, levers=("mlp",)), measured)
    assert alone.merged_tokens == ()
    assert alone.latency == pytest.approx(0.8, abs=0.01)
    in_time = previewer.of(VBPConfig(target_latency="8ms", levers=("mlp",)), measured)
    assert in_time.widths == alone.widths


def test_the_lever_of_least_damage_is_chosen_for_macs(parts: Any) -> None:
    prepared, _, _, previewer = parts
    dense, narrow, merged = prepared.widths, [1, 1, 1], (0, 4, 4)
    config = VBPConfig(target_macs=0.85)
    damage = {"merged": ((), narrow, 9.0), "mlp": ((), narrow, 0.001)}
    for expected, one in damage.items():
        points = (point(*one, 0.6), point(merged, dense, 0.1, 0.9), point(merged, narrow, 1.0, 0.5))
        found = previewer.of(config, LeverMeasurements(config.method, 8, (*points, point((), dense, 0.0, 1.0))))
        assert bool(found.merged_tokens) is (expected == "merged")
        assert found.cost["macs"] <= 0.85 * found.dense["macs"] + 1


def test_what_cannot_be_previewed_is_refused(parts: Any) -> None:
    *_, previewer = parts
    with pytest.raises(ConfigurationError, match="not measured"):
        previewer.of(VBPConfig(target_latency=0.8))
    with pytest.raises(BudgetError, match="cannot be reached"):
        previewer.of(VBPConfig(target_parameters=0.01))


def test_sites_without_variance(vit: Any) -> None:
    same = [{"pixel_values": torch.ones(4, 3, 32, 32)}]
    prepared, config = prepare(vit), VBPConfig(criterion="magnitude", compensation="none")
    statistics = collect_statistics(prepared, same, config)
    rankings = rank_sites(prepared, statistics, config)
    previewer = Previewer(prepared, rankings, damage_curves(prepared, statistics, rankings, config))
    assert previewer.of(VBPConfig(ratio=0.5)).predicted is not None
