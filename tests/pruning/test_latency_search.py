"""A latency budget is met from few measurements at any noise, and refused with the latency that can be reached."""

from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.registry import find_sites
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError, LatencyError
from hf_vbp.pruning import latency_search
from hf_vbp.pruning.budget_cost import check_budget
from hf_vbp.pruning.plan import PruningPlan
from tests.costs.clock import Clock

Batches = list[dict[str, torch.Tensor]]
REST = 0.4  # The share of the latency outside the MLPs.


def seconds(model: Any, now: float = 0.0) -> float:
    """10 ms for the dense model, linear in the widths."""
    return 0.01 * (REST + (1 - REST) * sum(site.intermediate_size for site in find_sites(model)) / 144)


class FirstOnly:
    """Images of which only the first batch may be read, whose MACs and latency are those of the budget."""

    def __iter__(self) -> Any:
        yield {"pixel_values": torch.zeros(2, 3, 32, 32)}
        raise AssertionError("the images were read")


@pytest.fixture
def statistics(vit: Any, batches: Batches) -> Any:
    return hf_vbp.collect_statistics(vit, batches)


def count_measurements(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    measured: list[list[int]] = []
    measure = latency_search.latency_of_widths

    def counted(model: Any, widths: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        measured.append(list(widths))
        return measure(model, widths, *arguments, **options)

    monkeypatch.setattr(latency_search, "latency_of_widths", counted)
    return measured


@pytest.mark.parametrize(
    ("share", "noise"),
    [
        (0.5, 0.0),
        (0.7, 0.0),
        (0.9, 0.0),
        *(pytest.param(share, 0.2, marks=pytest.mark.slow) for share in (0.5, 0.7, 0.9)),
    ],
)
def test_few_measurements_meet_the_budget_with_little_beyond_it(
    vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch, share: float, noise: float
) -> None:
    clock, measured = Clock(seconds, noise).install(monkeypatch), count_measurements(monkeypatch)
    for seed in range(5):
        clock.generator.seed(seed)
        measured.clear()
        plan = hf_vbp.make_plan(vit, statistics, VBPConfig(target_latency=share, levers=("mlp",)))
        assert plan.achieved <= share
        assert len(measured) <= 7
        true = REST + (1 - REST) * sum(plan.widths) / 144
        # The tolerance of the search, and twice the precision of a measurement.
        assert share - 0.02 - 2 * 0.03 <= true <= share + 2 * 0.03


def test_the_plan_records_the_measurement(vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(seconds).install(monkeypatch)
    plan = hf_vbp.make_plan(vit, statistics, VBPConfig(target_latency=0.7, latency_batch=4, levers=("mlp",)))
    assert plan.latency["dense_ms"] == pytest.approx(10)
    assert plan.latency["pruned_ms"] == pytest.approx(10 * plan.achieved)
    assert plan.latency["speedup"] == pytest.approx(1 / plan.achieved)
    assert (plan.latency["batch"], plan.latency["dtype"], plan.latency["device"]) == (4, "float32", "cpu")
    assert {"threads", "device_name", "repetitions", "speedup_interval"} <= set(plan.latency)
    assert PruningPlan.from_dict(plan.to_dict()) == plan


def test_a_noisy_machine_can_be_measured_with_less_precision(
    vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second for each pass: the time is over after 30 passes of each model.
    Clock(lambda model, now: 100 * seconds(model), noise=0.5).install(monkeypatch)
    with pytest.raises(LatencyError, match=r"--latency-precision 0\.\d+, latency_precision from Python"):
        hf_vbp.make_plan(vit, statistics, VBPConfig(target_latency=0.5))
    config = VBPConfig(target_latency=0.5, latency_precision=0.9, levers=("mlp",))
    plan = hf_vbp.make_plan(vit, statistics, config)
    assert plan.latency["repetitions"] <= 20
    assert plan.to_dict()["latency_precision"] == 0.9
    assert PruningPlan.from_dict(plan.to_dict()) == plan
    assert VBPConfig.from_dict(config.to_dict()) == config


# torch warns of its own code when it is first asked to compile.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_is_measured_in_the_dtype_and_compiled_as_requested(
    vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[Any, bool]] = set()

    def note(model: Any, now: float) -> float:
        if not hasattr(model, "config"):
            # The projections that show which multiple of widths is fastest.
            return 1.0
        seen.add((model.dtype, model._compiled_call_impl is not None))
        return 1e-6 * float(model.num_parameters())

    Clock(note).install(monkeypatch)
    config = VBPConfig(target_latency=0.7, latency_dtype="bfloat16", latency_compile=True, levers=("mlp",))
    plan = hf_vbp.make_plan(vit, statistics, config)
    assert seen == {(torch.bfloat16, True)}
    assert (plan.latency["dtype"], plan.latency["compiled"]) == ("bfloat16", True)
    assert PruningPlan.from_dict(plan.to_dict()) == plan
    assert VBPConfig.from_dict(config.to_dict()) == config
    assert (vit.dtype, vit._compiled_call_impl) == (torch.float32, None)


@pytest.mark.parametrize("fields", [{"latency_dtype": "int8"}, {"latency_dtype": 3}, {"latency_compile": "yes"}])
def test_invalid_conditions_of_a_budget_are_refused(fields: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(fields))):
        VBPConfig(target_latency=0.7, **fields)


@pytest.mark.parametrize("precision", [0, 1, -0.1, "0.1", True, float("nan")])
def test_an_invalid_precision_is_refused(precision: Any) -> None:
    with pytest.raises(ConfigurationError, match="latency_precision must be between 0 and 1"):
        VBPConfig(target_latency=0.7, latency_precision=precision)


def test_a_time_in_milliseconds(vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(seconds).install(monkeypatch)
    config = VBPConfig(target_latency="7.5ms", levers=("mlp",))
    plan = hf_vbp.make_plan(vit, statistics, config)
    assert 7.3 <= plan.latency["pruned_ms"] <= 7.5
    assert PruningPlan.from_dict(plan.to_dict()) == plan
    assert VBPConfig.from_dict(config.to_dict()) == config
    assert plan.to_dict()["budget"]["asked"] == "7.5ms"


@pytest.mark.parametrize("asked", ["12", "12s", "ms", "0ms", "-3ms", "1e3ms", "nanms"])
def test_other_times_are_refused(asked: str) -> None:
    with pytest.raises(BudgetError, match="share between 0 and 1 or a time such as '12ms'"):
        VBPConfig(target_latency=asked)
    with pytest.raises(BudgetError, match="must be between 0 and 1"):
        VBPConfig(target_macs="12ms")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (0.3, r"0.3 cannot be reached .*no less than a share of 0.41. can be kept: 10 ms dense, 4.1\d* ms pruned"),
        ("3ms", r"3ms cannot be reached .*no less than a share of 0.41. \(4.1\d* ms\) can be kept: 10 ms dense"),
        ("11ms", r"the dense model takes 10 ms, which meets 11ms without pruning"),
    ],
)
def test_an_unreachable_latency_names_the_reachable_one_before_the_images_are_read(
    vit: Any, monkeypatch: pytest.MonkeyPatch, asked: Any, says: str
) -> None:
    Clock(seconds).install(monkeypatch)

    with pytest.raises(BudgetError, match=says):
        hf_vbp.prune(vit, FirstOnly(), VBPConfig(target_latency=asked))


def test_pruning_that_does_not_make_a_model_faster(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a tiny model on a CPU; a share above 1 that "can be kept" means nothing."""
    dense = vit.num_parameters()
    Clock(lambda model, now: 1e-3 if model.num_parameters() == dense else 1.1e-3).install(monkeypatch)
    for asked in (0.01, "0.2ms"):
        with pytest.raises(BudgetError, match=r"takes 1.1 ms, and 1 ms before, so pruning does not make it") as caught:
            hf_vbp.prune(vit, [], VBPConfig(target_latency=asked))
        assert "share of 1" not in str(caught.value)


def test_noise_is_an_error_and_never_a_plan(vit: Any, statistics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(seconds, noise=2.0).install(monkeypatch)
    with pytest.raises(LatencyError, match="too noisy"):
        hf_vbp.make_plan(vit, statistics, VBPConfig(target_latency=0.7))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"target_macs": 0.01, "levers": ("mlp",)},
            r"MACs: 0.01 cannot be reached .*share of 0\.\d+ can be kept.*at least 1 neuron \(",
        ),
        ({"target_parameters": 0.01}, r"parameters: 0.01 cannot be reached .*no less than a share of 0\.\d+ can"),
        (
            {"ratio": 0.5, "round_to": 100000},
            r"keeps at least 100,000 neurons, or all where it has fewer \(minimum_width 1, rounded up to a multiple "
            r"of round_to 100,000\); lower round_to or the ratio",
        ),
        (
            {"target_parameters": 0.1, "round_to": 32, "minimum_width": 3},
            "keeps at least 32 neurons, .* lower round_to, minimum_width, or ask for a larger share",
        ),
        (
            {"ratio": 0.9, "round_to": 4, "minimum_width": 40},
            r"keeps at least 40 neurons \(minimum_width\); lower minimum_width or the ratio",
        ),
        ({"ratio": 0.9, "minimum_width": 40}, r"hidden neurons: 0.9 cannot be .*at most a share of 0.1666 can be"),
    ],
)
def test_an_impossible_budget_is_refused_before_the_images_are_read(
    vit: Any, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(BudgetError, match=says) as error:
        hf_vbp.prune(vit, FirstOnly(), VBPConfig(**fields))
    if "ratio" not in fields:
        # The share in the message can be reached.
        reached = float(str(error.value).split("a share of ")[1].split()[0])
        check_budget(
            prepare(vit), VBPConfig(**{**fields, **{name: reached for name in fields if name.startswith("target_")}})
        )


def test_a_plan_knows_its_cost(vit: Any, statistics: Any) -> None:
    config = VBPConfig(target_parameters=0.7)
    plan = hf_vbp.make_plan(vit, statistics, config)
    pruned = hf_vbp.apply_plan(vit, plan, statistics)
    assert plan.cost["pruned"]["parameters"] == sum(parameter.numel() for parameter in pruned.parameters())
    assert plan.cost["pruned"]["parameters"] / plan.cost["dense"]["parameters"] == pytest.approx(plan.achieved)
    assert PruningPlan.from_dict(plan.to_dict()) == plan
