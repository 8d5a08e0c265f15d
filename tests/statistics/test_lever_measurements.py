"""Measurements of merged tokens: interpolated between widths, kept with the statistics, strictly read."""

from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.lever_measurements import (
    LeverMeasurement,
    LeverMeasurements,
    are_lever_measurements,
    read_lever_measurements,
)

METHOD = hf_vbp.VBPConfig().method
POINTS = (
    LeverMeasurement((0, 4, 4), (10, 10), 0.5),
    LeverMeasurement((0, 4, 4), (20, 20), 0.1, {"speedup": 1.5}),
    LeverMeasurement((), (20, 20), 0.0),
)
MEASURED = LeverMeasurements(METHOD, 64, POINTS)


def test_the_distance_is_linear_in_the_neurons_between_two_measured_widths() -> None:
    assert MEASURED.distance([0, 4, 4], [10, 10]) == 0.5
    assert MEASURED.distance([0, 4, 4], [14, 16]) == pytest.approx(0.3)
    assert MEASURED.distance([], [20, 20]) == 0.0


@pytest.mark.parametrize(("merged", "widths"), [([0, 4, 4], [9, 10]), ([0, 2, 2], [10, 10]), ([], [10, 10])])
def test_nothing_is_guessed_outside_the_measured_range(merged: list[int], widths: list[int]) -> None:
    assert MEASURED.distance(merged, widths) is None


def test_the_json_form_is_read_back() -> None:
    assert read_lever_measurements([MEASURED.to_dict()]) == [MEASURED]


def test_a_new_measurement_replaces_that_of_the_same_model() -> None:
    new = MEASURED.with_points([LeverMeasurement((), (20, 20), 0.25)])
    assert new.distance([], [20, 20]) == 0.25
    assert len(new.points) == 3


def test_they_are_kept_in_the_file_of_statistics(vit: Any, batches: Any, tmp_path: Path) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches).with_measurements(MEASURED)
    statistics.save(tmp_path / "s.safetensors")
    read = hf_vbp.ActivationStatistics.load(tmp_path / "s.safetensors")
    assert read.measurements_of(METHOD) == MEASURED
    assert read.measurements_of(hf_vbp.VBPConfig(criterion="variance").method) is None


def test_merged_statistics_drop_them(vit: Any, batches: Any) -> None:
    first = hf_vbp.collect_statistics(vit, batches[:2]).with_measurements(MEASURED)
    assert first.merge(hf_vbp.collect_statistics(vit, batches[2:])).measurements_of(METHOD) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("merged_tokens", [-1]),
        ("merged_tokens", "044"),
        ("widths", [1.5]),
        ("widths", [True]),
        ("distance", -0.1),
        ("distance", float("nan")),
        ("distance", True),
        ("distance", 10**400),
        ("latency", []),
        ("latency", {"speedup": "fast"}),
        ("latency", {"speedup": 0}),
        ("latency", {"speedup": 1.5, "dense_ms": float("nan")}),
    ],
)
def test_a_wrong_field_is_refused(field: str, value: Any) -> None:
    content = MEASURED.to_dict()
    content["points"][0] = {**content["points"][0], field: value}
    assert not are_lever_measurements([content])
    with pytest.raises(StatisticsError, match=field):
        read_lever_measurements([content])
