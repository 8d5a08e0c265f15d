"""``round_to="auto"``: the multiple of the widths that is fastest, measured on one MLP of the model's shape."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.device_name import processor_name
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.costs.timing import Times
from hf_vbp.costs.width_multiple import TimedMLP, chosen_multiple, fastest_multiple, tried_widths
from hf_vbp.errors import ConfigurationError
from hf_vbp.results.checks import find_problem
from hf_vbp.results.plan import Plan, describe_plan
from tests.conftest import make_model
from tests.costs.clock import Clock

WIDTH = 256


@pytest.fixture
def wide() -> Any:
    return make_model("vit", intermediate_size=WIDTH)


def in_steps_of(multiple: int) -> Any:
    """A device that computes blocks of this many neurons; whole models take time linear in their parameters."""

    def seconds(model: Any, now: float) -> float:
        if isinstance(model, TimedMLP):
            return 1e-5 * -(-model.width // multiple) * multiple
        return 1e-6 * float(model.num_parameters())

    return seconds


def test_each_multiple_has_a_width_of_its_own() -> None:
    assert tried_widths(3072) == {1: 2261, 8: 2344, 16: 2256, 32: 2336, 64: 2240, 128: 2176}
    for dense in (1, 7, 48, 192, 768, 1023, 4096):
        for multiple, width in tried_widths(dense).items():
            assert 0 < width <= dense
            assert width % multiple == 0
            assert width % (2 * multiple) != 0
            assert multiple == 1 or 8 * multiple <= dense


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("step", "expected"), [(1, 1), (16, 16), (32, 32)])
def test_the_multiple_of_the_device_is_found(
    wide: Any, step: int, expected: int, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(in_steps_of(step), noise).install(monkeypatch)
    found = fastest_multiple(prepare(wide), LatencyOptions(batch=2))
    assert found["multiple"] == expected
    assert found["device_name"] == processor_name()
    assert (found["batch"], found["dtype"]) == (2, "float32")
    assert set(found["speedups"]) == {"1", "8", "16", "32"}


def test_the_smallest_multiple_of_those_that_gain_as_much_is_taken() -> None:
    generator = random.Random(0)
    widths = {1: 191, 8: 184, 16: 176, 32: 160}
    gains = {1: 1.0, 8: 1.2, 16: 1.21, 32: 1.1}
    passes = [[w / gains[m] * generator.lognormvariate(0, 0.001) for _ in range(20)] for m, w in widths.items()]
    multiple, speedups = chosen_multiple(widths, Times(passes))
    assert multiple == 8
    assert speedups == pytest.approx(gains, rel=0.01)
    # A gain that is not certain is none.
    noisy = [[w / gains[m] * generator.lognormvariate(0, 2) for _ in range(8)] for m, w in widths.items()]
    assert chosen_multiple(widths, Times(noisy))[0] == 1


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_what_is_timed_is_the_mlp_of_the_model(kind: str) -> None:
    site = prepare(make_model(kind)).sites[0]
    hidden = torch.randn(2, 5, 32)
    made = TimedMLP(site, 48)
    expected = site.fc2(torch.nn.functional.gelu(site.mlp.ups[0](hidden)))
    torch.testing.assert_close(made(hidden), expected)
    assert TimedMLP(site, 7)(hidden).shape == (2, 5, 32)


def test_a_latency_budget_measures_it_and_the_plan_records_it(
    wide: Any, batches: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Clock(in_steps_of(32)).install(monkeypatch)
    config = VBPConfig(target_latency=0.8, levers=("mlp",))
    result = hf_vbp.prune(wide, batches, config)
    plan = result.plan
    assert plan.config == config
    assert plan.rounding["multiple"] == 32
    assert plan.rounding["device_name"] == processor_name()
    assert all(width % 32 == 0 for width in plan.widths)
    described = describe_plan(plan)
    assert find_problem(described, Plan) is None
    assert described["round_to"] == 32
    # On another device the same plan gives the same weights, and nothing is measured.
    loaded = hf_vbp.PruningPlan.load(plan.save(tmp_path / "plan.json"))
    assert loaded == plan
    Clock(lambda model, now: pytest.fail("measured")).install(monkeypatch)
    again = hf_vbp.apply_plan(wide, loaded, result.statistics).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in result.model.state_dict().items())


def test_a_later_plan_takes_over_the_multiple_of_the_measured_levers(
    wide: Any, batches: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Clock(in_steps_of(32)).install(monkeypatch)
    config = VBPConfig(target_macs=0.7, round_to="auto")
    result = hf_vbp.prune(wide, batches, config)
    assert result.plan.rounding["multiple"] == 32
    result.statistics.save(tmp_path / "s.safetensors")
    loaded = hf_vbp.ActivationStatistics.load(tmp_path / "s.safetensors")
    # The machine would give another one now.
    Clock(in_steps_of(1)).install(monkeypatch)
    assert hf_vbp.make_plan(wide, loaded, config).to_json() == result.plan.to_json()
    # Under other conditions it is measured again.
    config = VBPConfig(target_macs=0.7, round_to="auto", latency_batch=4, levers=("mlp",))
    assert hf_vbp.make_plan(wide, loaded, config).rounding["multiple"] == 1


def test_one_real_measurement(wide: Any, batches: Any) -> None:
    statistics = hf_vbp.collect_statistics(wide, batches)
    plan = hf_vbp.make_plan(wide, statistics, VBPConfig(ratio=0.4, round_to="auto"))
    multiple = plan.rounding["multiple"]
    assert multiple in tried_widths(WIDTH)
    assert all(width % multiple == 0 for width in plan.widths)
    assert plan.rounding["speedups"]["1"] == 1
    assert all(speedup > 0 for speedup in plan.rounding["speedups"].values())
    assert json.loads(plan.to_json())["round_to"] == "auto"


def test_narrow_mlps_are_not_measured(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(lambda model, now: pytest.fail("measured")).install(monkeypatch)
    assert fastest_multiple(prepare(vit))["multiple"] == 1


def test_the_default_depends_on_the_budget() -> None:
    assert VBPConfig(target_latency=0.5).round_to == "auto"
    assert VBPConfig(target_latency=0.5, round_to=8).round_to == 8
    assert VBPConfig.preset("paper", target_latency=0.5).round_to == 1
    assert VBPConfig(ratio=0.5).round_to == 1
    assert VBPConfig().with_budget(target_latency="5ms").round_to == "auto"
    assert VBPConfig(target_latency=0.5).with_budget(ratio=0.5) == VBPConfig(ratio=0.5)
    assert VBPConfig(round_to=8).with_budget(target_latency=0.5).round_to == 8
    config = VBPConfig(target_latency=0.5)
    assert VBPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("value", ["fast", 0, 2.0, True, -8])
def test_invalid_multiples_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="round_to must be a whole number of at least 1"):
        VBPConfig(ratio=0.5, round_to=value)
