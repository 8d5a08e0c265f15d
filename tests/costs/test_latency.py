"""Latency: repeated until it is certain, in turns, and refused where it cannot be measured."""

import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_vbp.adapters.registry import find_sites
from hf_vbp.costs import device_name
from hf_vbp.costs.latency import LatencyOptions, latency_of_widths, measure_latency
from hf_vbp.costs.timing import median_interval
from hf_vbp.errors import ConfigurationError, LatencyError
from tests.conftest import make_model
from tests.costs.clock import Clock


def width_of(model: Any) -> int:
    return sum(site.intermediate_size for site in find_sites(model))


@pytest.mark.parametrize(("number", "ranks"), [(6, (1, 6)), (10, (2, 9)), (20, (6, 15)), (100, (40, 61))])
def test_the_interval_of_a_median_has_the_ranks_of_the_tables(number: int, ranks: tuple[int, int]) -> None:
    # Conover, Practical Nonparametric Statistics: at least 95 % for every distribution.
    assert median_interval(range(1, number + 1)) == ranks


def test_the_interval_holds_the_true_median_in_95_percent_of_skewed_samples() -> None:
    generator = random.Random(0)
    samples = [[generator.lognormvariate(0, 1) for _ in range(30)] for _ in range(2000)]
    hits = sum(low <= 1 <= high for low, high in map(median_interval, samples))
    assert hits / 2000 == pytest.approx(0.957, abs=0.015)


def test_a_row_describes_the_measurement_and_the_model_is_not_changed(
    vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lambda model, now: 0.01, noise=0.1, runs=True).install(monkeypatch)
    options = LatencyOptions(batch=2, dtype="bfloat16", threads=1, precision=0.9, repetitions=8)
    threads = torch.get_num_threads()
    dense, pruned = measure_latency({"dense": vit.train(), "pruned": make_model("vit")}, options)
    assert vit.training
    assert (vit.dtype, torch.get_num_threads()) == (torch.float32, threads)
    expected = {"model": "dense", "device": "cpu", "dtype": "bfloat16", "batch": 2, "threads": 1, "repetitions": 8}
    assert {key: dense[key] for key in expected} == expected
    assert dense["device_name"] == device_name.processor_name()
    assert 0 < dense["min_ms"] <= dense["p10_ms"] <= dense["median_ms"] <= dense["p90_ms"]
    assert dense["images_per_second"] == pytest.approx(2e3 / dense["median_ms"])
    assert "speedup" not in dense
    assert pruned["speedup_interval"][0] <= pruned["speedup"] <= pruned["speedup_interval"][1]


def test_a_clock_that_drifts_does_not_change_the_speedup(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten times slower after a minute, like a hot or busy machine. In turns, both models are affected.
    Clock(lambda model, now: width_of(model) * 1e-3 * (1 + 9 * now / 60), noise=0.1).install(monkeypatch)
    found = latency_of_widths(vit, [24, 24, 24])
    assert found["speedup"] == pytest.approx(2, rel=0.04)
    assert found["dense_ms"] > found["pruned_ms"]


@pytest.mark.parametrize(("seconds", "repetitions"), [(0.01, {20, 21, 22}), (4.0, {6})])
def test_slow_passes_are_repeated_less_often(
    vit: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, repetitions: set[int]
) -> None:
    Clock(lambda model, now: seconds).install(monkeypatch)
    assert latency_of_widths(vit, [48, 48, 48])["repetitions"] in repetitions


def test_repeats_until_the_interval_is_small(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(lambda model, now: 1e-3 * width_of(model) / 144, noise=0.1).install(monkeypatch)
    seen: list[tuple[int, int | None]] = []
    found = latency_of_widths(vit, [24, 24, 24], progress=lambda done, total: seen.append((done, total)))
    low, high = found["speedup_interval"]
    assert 20 < found["repetitions"] < 1000
    assert (high - low) / 2 / found["speedup"] <= 0.031
    assert found["speedup"] == pytest.approx(2, rel=0.06)
    assert seen[-1][0] == found["repetitions"]
    assert all(total is not None and total >= done for done, total in seen)


@pytest.mark.parametrize("seconds", [1e-3, 1.0])
def test_a_noisy_machine_is_refused_in_one_sentence(vit: Any, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = Clock(lambda model, now: seconds, noise=2.0).install(monkeypatch)
    with pytest.raises(LatencyError, match=r"too noisy.*within \d+\.\d % only, and 3 % is needed \(batch 1, float32"):
        latency_of_widths(vit, [24, 24, 24])
    assert clock.passes <= 2 * 1000 + 20
    # One pass may be a hundred times as long as usual under this noise.
    assert clock.now < 60 + 2 * 100 * seconds + 100


def test_measures_a_model_of_the_given_widths_that_shares_the_other_weights(
    vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, Any] = {}

    def note(model: Any, now: float) -> float:
        seen[id(model)] = model
        return 1.0

    Clock(note).install(monkeypatch)
    latency_of_widths(vit, [48, 10, 1])
    dense, pruned = seen.values()
    assert dense is vit
    assert [site.intermediate_size for site in find_sites(pruned)] == [48, 10, 1]
    assert [site.intermediate_size for site in find_sites(vit)] == [48, 48, 48]
    assert pruned.classifier.weight is vit.classifier.weight
    with torch.inference_mode():
        assert pruned(pixel_values=torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_measured_and_the_callers_model_is_not_compiled(vit: Any) -> None:
    options = LatencyOptions(compile=True, precision=0.9, seconds=2.0, repetitions=6)
    dense, pruned = measure_latency({"dense": vit, "pruned": vit}, options)
    assert dense["compiled"]
    assert pruned["median_ms"] > 0
    assert vit._compiled_call_impl is None


@pytest.mark.parametrize(
    "fields",
    [{"batch": 0}, {"batch": True}, {"threads": 0}, {"dtype": "int8"}, {"dtype": "fast"}, {"precision": 0},
     {"repetitions": 5}, {"seconds": 0}],
)  # fmt: skip
def test_conditions_are_validated(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(fields)) + r"|repetitions|time"):
        LatencyOptions(**fields)


def test_the_processor_has_its_real_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    monkeypatch.setattr(device_name, "CPU_INFORMATION", file)
    device_name.processor_name.cache_clear()
    assert device_name.processor_name() == "Fast CPU @ 3 GHz"
    file.unlink()
    device_name.processor_name.cache_clear()
    assert device_name.processor_name()
    device_name.processor_name.cache_clear()


def test_medians_are_of_single_passes(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(lambda model, now: 0.25).install(monkeypatch)
    (row,) = measure_latency({"dense": vit})
    assert row["median_ms"] == statistics.median([250.0])
