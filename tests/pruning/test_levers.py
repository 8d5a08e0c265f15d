"""A budget spent on narrower MLPs and merged tokens together."""

import copy
import warnings
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.counts import count_macs
from hf_vbp.costs.widths import width_costs
from hf_vbp.errors import BudgetError, ConfigurationError, PlanError
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.pruning.levers import LeverWarning, candidate_numbers, counts_for, fewest_tokens

from ..conftest import make_model
from ..costs.clock import Clock

Batches = list[dict[str, torch.Tensor]]
TOKENS, LAYERS, HIDDEN, WIDTH = 17, 3, 32, 48


def closed_form(merged: int, widths: list[int]) -> int:
    """The MACs of the tiny ViT: patches, attention, MLPs, matching, head."""
    total, tokens = 16 * 3 * 8 * 8 * HIDDEN + HIDDEN * 5, TOKENS
    for block, width in enumerate(widths):
        if block and merged:
            free = tokens - 1
            total += -(-free // 2) * (free // 2) * HIDDEN // 2
            tokens -= min(merged, free // 2)
        total += 4 * tokens * HIDDEN * HIDDEN + 2 * tokens * tokens * HIDDEN + 2 * tokens * HIDDEN * width
    return total


@pytest.mark.parametrize("merged", [0, 1, 3, 4])
def test_the_cost_with_merged_tokens_is_a_closed_form(vit: Any, merged: int) -> None:
    prepared = prepare(vit)
    costs = width_costs(prepared, counts_for(vit, merged))
    for widths in ([48, 48, 48], [10, 20, 30]):
        assert costs.of(widths)["macs"] == closed_form(merged, widths)
    assert not hasattr(vit.config, "vbp")


def test_the_fewest_tokens_that_meet_a_budget_alone(vit: Any) -> None:
    prepared, dense = prepare(vit), closed_form(0, [WIDTH] * LAYERS)
    budget = VBPConfig(target_macs=0.85).budget
    number = fewest_tokens(prepared, budget)
    assert number is not None
    assert closed_form(number, [WIDTH] * LAYERS) <= 0.85 * dense < closed_form(number - 1, [WIDTH] * LAYERS)
    assert fewest_tokens(prepared, VBPConfig(target_macs=0.2).budget) is None


def test_numbers_of_tokens_that_no_model_has_are_refused(vit: Any) -> None:
    # The checkpoint of such a model would be refused on loading.
    for number in (10**9, [0, 10**9, 1]):
        with pytest.raises(ConfigurationError, match="whole number of tokens from 0 to 1,000,000"):
            hf_vbp.merge_tokens(vit, number)


def test_a_budget_that_unmeasured_tokens_could_meet(vit: Any, batches: Batches) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches)
    with pytest.raises(BudgetError, match="hold no measurements of them: pass images to prune"):
        hf_vbp.make_plan(vit, statistics, VBPConfig(target_macs=0.65))


def test_the_candidates_are_dense_near_merging_alone() -> None:
    assert candidate_numbers(15) == [15, 14, 13, 11, 8, 0]
    assert candidate_numbers(1) == [1, 0]


@pytest.mark.parametrize("target", [0.85, 0.7, 0.6])
def test_the_plan_of_a_macs_budget_is_the_measured_candidate_of_least_distance(
    vit: Any, batches: Batches, target: float
) -> None:
    before = copy.deepcopy(vit.state_dict())
    result = hf_vbp.prune(vit, batches, VBPConfig(target_macs=target))
    points = result.statistics.measurements_of(result.plan.config.method).points  # type: ignore[union-attr]
    assert len(points) > 1
    best = min(points, key=lambda point: point.distance)
    assert result.plan.merged_tokens == best.merged_tokens
    assert tuple(result.plan.widths) == best.widths
    assert result.plan.achieved <= target
    number = result.plan.merged_tokens[1] if result.plan.merged_tokens else 0
    macs = closed_form(number, result.plan.widths)
    assert count_macs(result.model) == macs
    assert macs / closed_form(0, [WIDTH] * LAYERS) == pytest.approx(result.plan.achieved)
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert not hasattr(vit.config, "vbp")


def test_the_measured_distance_is_the_mean_kl_of_the_pruned_model(vit: Any, batches: Batches) -> None:
    result = hf_vbp.prune(vit, batches, VBPConfig(target_macs=0.7))
    points = result.statistics.measurements_of(result.plan.config.method).points  # type: ignore[union-attr]
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    with torch.no_grad():
        dense, pruned = (model(pixel_values=pixels).logits.double().log_softmax(-1) for model in (vit, result.model))
    kl = (dense.exp() * (dense - pruned)).sum(-1).mean().item()
    assert min(point.distance for point in points) == pytest.approx(kl, rel=1e-4)


def test_a_later_plan_needs_no_images(vit: Any, batches: Batches, tmp_path: Path) -> None:
    config = VBPConfig(target_macs=0.7)
    result = hf_vbp.prune(vit, batches, config)
    result.statistics.save(tmp_path / "s.safetensors")
    again = hf_vbp.make_plan(vit, hf_vbp.ActivationStatistics.load(tmp_path / "s.safetensors"), config)
    assert again.to_json() == result.plan.to_json()
    assert again.merged_tokens


def test_without_measurements_only_the_mlps_are_narrower(vit: Any, batches: Batches) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches)
    with pytest.warns(LeverWarning, match=r"no measurements of merged tokens .* narrower MLPs alone.*measure_levers"):
        plan = hf_vbp.make_plan(vit, statistics, VBPConfig(target_macs=0.8))
    assert plan.merged_tokens == ()
    with pytest.warns(LeverWarning, match="narrower MLPs alone"):
        asked = hf_vbp.make_plan(vit, statistics, VBPConfig(target_macs=0.8, levers=("mlp", "tokens")))
    assert asked.widths == plan.widths
    with pytest.raises(ConfigurationError, match="merge_tokens"):
        hf_vbp.make_plan(vit, statistics, VBPConfig(target_macs=0.8, levers=("tokens",)))


@pytest.mark.parametrize("config", [VBPConfig(ratio=0.5), VBPConfig.preset("paper", target_macs=0.8)])
def test_ratios_and_the_paper_merge_no_tokens(vit: Any, batches: Batches, config: VBPConfig) -> None:
    result = hf_vbp.prune(vit, batches, config)
    assert result.plan.merged_tokens == ()
    assert "lever_measurements" not in result.statistics.fingerprints


@pytest.mark.parametrize("config", [VBPConfig(ratio=0.5, merge_tokens=3), VBPConfig(target_macs=0.7, merge_tokens=3)])
def test_a_given_number_of_tokens_is_merged_under_every_budget(vit: Any, batches: Batches, config: VBPConfig) -> None:
    result = hf_vbp.prune(vit, batches, config)
    assert result.plan.merged_tokens == (0, 3, 3)
    assert result.model.config.vbp["merged_tokens"] == [0, 3, 3]
    if config.ratio is not None:
        assert result.plan.widths == hf_vbp.make_plan(vit, result.statistics, VBPConfig(ratio=0.5)).widths
    else:
        assert closed_form(3, result.plan.widths) <= 0.7 * closed_form(0, [WIDTH] * LAYERS)


def test_tokens_alone_meet_a_budget_without_pruning(vit: Any, batches: Batches) -> None:
    result = hf_vbp.prune(vit, batches, VBPConfig(target_macs=0.85, levers=("tokens",)))
    assert result.plan.widths == [WIDTH] * LAYERS
    assert result.plan.ratio == 0
    dense = vit.state_dict()
    assert all(torch.equal(value, dense[name]) for name, value in result.model.state_dict().items())


def test_a_plan_with_merged_tokens_is_applied_again_bit_for_bit(vit: Any, batches: Batches, tmp_path: Path) -> None:
    result = hf_vbp.prune(vit, batches, VBPConfig(target_macs=0.7))
    plan = hf_vbp.PruningPlan.load(result.plan.save(tmp_path / "plan.json"))
    assert plan == result.plan
    again = hf_vbp.apply_plan(vit, plan, result.statistics)
    with torch.no_grad():
        first, second = (model(**_pixels(batches)).logits for model in (result.model, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "changes", [{"merged_tokens": [0, -1, 1]}, {"merged_tokens": "x"}, {"version": 1}, {"merged_tokens": []}]
)
def test_a_damaged_plan_is_refused(vit: Any, batches: Batches, changes: dict[str, Any]) -> None:
    content = hf_vbp.prune(vit, batches, VBPConfig(target_macs=0.7)).plan.to_dict()
    assert content["version"] == 2
    with pytest.raises(PlanError, match="merged_tokens"):
        hf_vbp.PruningPlan.from_dict({**content, **changes})


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"levers": ("mlp", "mlp")}, "levers"),
        ({"levers": ()}, "levers"),
        ({"levers": "mlp"}, "levers"),
        ({"levers": ("depth",)}, "levers"),
        ({"merge_tokens": -1}, "merge_tokens"),
        ({"merge_tokens": True}, "merge_tokens"),
        ({"merge_tokens": 3, "levers": ("mlp",)}, "levers=mlp"),
        ({"merge_tokens": 0, "levers": ("tokens",)}, "merge_tokens=0 merges no tokens"),
        ({"levers": ("tokens", "foo")}, "got 'tokens,foo'"),
    ],
)
def test_wrong_levers_are_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        VBPConfig(target_macs=0.8, **values)


def test_a_configuration_with_levers_round_trips() -> None:
    config = VBPConfig(target_macs=0.8, levers=("mlp", "tokens"), merge_tokens=2)
    assert VBPConfig.from_dict(config.to_dict()) == config
    assert "levers" not in VBPConfig(target_macs=0.8).to_dict()


def test_what_cannot_be_is_refused_before_the_pass(vit: Any, batches: Batches) -> None:
    def after_the_first() -> Any:
        # The first image verifies the structure of the model.
        yield batches[0]
        raise AssertionError("the images were read")

    with pytest.raises(ConfigurationError, match="merge_tokens"):
        hf_vbp.prune(vit, after_the_first(), VBPConfig(ratio=0.5, levers=("tokens",)))
    with pytest.raises(BudgetError, match="cannot be reached"):
        hf_vbp.prune(vit, after_the_first(), VBPConfig(target_macs=0.05))
    with pytest.raises(ConfigurationError, match="tokens"):
        hf_vbp.prune(make_model("vit-backbone"), after_the_first(), VBPConfig(target_macs=0.8, levers=("tokens",)))


def test_a_model_that_cannot_merge_is_pruned_without_a_word(batches: Batches) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = hf_vbp.prune(make_model("vit-backbone"), batches, VBPConfig(target_macs=0.8))
    assert result.plan.merged_tokens == ()


def test_images_that_can_be_read_once_are_not_measured(vit: Any, batches: Batches) -> None:
    with pytest.warns(LeverWarning, match="read only once"):
        result = hf_vbp.prune(vit, iter(batches), VBPConfig(target_macs=0.8))
    assert result.plan.merged_tokens == ()


@pytest.mark.parametrize("target", [0.75, "0.7ms"])
def test_a_latency_budget_is_spent_on_both_levers(
    vit: Any, batches: Batches, target: float | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = count_macs(vit)
    known: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def seconds(model: Any, now: float) -> float:
        if model not in known:
            known[model] = count_macs(model)
        return 1e-3 * known[model] / dense

    Clock(seconds).install(monkeypatch)
    config = VBPConfig(target_latency=target)
    result = hf_vbp.prune(vit, batches, config)
    points = result.statistics.measurements_of(config.method).points  # type: ignore[union-attr]
    assert len({point.merged_tokens for point in points}) > 1
    best = min(points, key=lambda point: point.distance)
    assert (result.plan.merged_tokens, tuple(result.plan.widths)) == (best.merged_tokens, best.widths)
    share = target if isinstance(target, float) else 0.7
    assert count_macs(result.model) / dense <= share
    assert result.plan.achieved == pytest.approx(count_macs(result.model) / dense, rel=1e-6)
    assert result.plan.latency["speedup"] == pytest.approx(dense / count_macs(result.model), rel=1e-6)
    # What was measured is read again, without a new measurement.
    Clock(lambda model, now: 1.0).install(monkeypatch)
    assert hf_vbp.make_plan(vit, result.statistics, config).to_json() == result.plan.to_json()


def test_a_latency_budget_is_met_without_merging_where_merging_is_slow(
    vit: Any, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in small batches on a GPU."""
    dense = count_macs(vit)

    known: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def seconds(model: Any, now: float) -> float:
        if model not in known:
            known[model] = 2e-3 if any(merged_tokens(model)) else 1e-3 * count_macs(model) / dense
        return known[model]

    Clock(seconds).install(monkeypatch)
    result = hf_vbp.prune(vit, batches, VBPConfig(target_latency=0.75))
    assert not any(result.plan.merged_tokens)
    assert 0.7 < count_macs(result.model) / dense <= 0.75
    with pytest.raises(BudgetError, match=r"0\.1 cannot be reached .*no less than a share of 0\.[1-9]"):
        hf_vbp.prune(vit, batches, VBPConfig(target_latency=0.1))


def _by_macs(monkeypatch: pytest.MonkeyPatch, model: Any) -> Clock:
    """A clock by which a pass takes 1 ms for the MACs of ``model``."""
    dense, known = count_macs(model), WeakKeyDictionary[Any, int]()

    def seconds(model: Any, now: float) -> float:
        if model not in known:
            known[model] = count_macs(model)
        return 1e-3 * known[model] / dense

    return Clock(seconds).install(monkeypatch)


@pytest.mark.parametrize("budget", [{"target_latency": 0.85}, {"target_latency": "0.85ms", "merge_tokens": 4}])
def test_tokens_alone_meet_a_latency_budget_without_pruning(
    vit: Any, batches: Batches, budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _by_macs(monkeypatch, vit)
    plan = hf_vbp.prune(vit, batches, VBPConfig(**budget, levers=("tokens",), round_to=1)).plan
    assert plan.widths == [WIDTH] * LAYERS
    dense = closed_form(0, [WIDTH] * LAYERS)
    fewest = next(n for n in range(1, 9) if closed_form(n, [WIDTH] * LAYERS) <= 0.85 * dense)
    assert plan.merged_tokens == counts_for(vit, budget.get("merge_tokens", fewest))
    assert plan.achieved == pytest.approx(closed_form(plan.merged_tokens[1], plan.widths) / dense, rel=1e-6)


@pytest.mark.parametrize(
    ("levers", "match"),
    [
        (("tokens",), r"by merging tokens; no less than a share of 0\.\d+ .*Ask for a larger share, or use narrower"),
        (("mlp", "tokens"), r"by pruning the MLPs and merging tokens; no less .*\(minimum_width\)"),
        (("mlp",), r"by pruning the MLPs; no less than .*\(minimum_width\)"),
    ],
)
def test_a_latency_that_cannot_be_reached_names_its_levers(
    vit: Any, batches: Batches, levers: tuple[str, ...], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _by_macs(monkeypatch, vit)
    statistics = hf_vbp.collect_statistics(vit, batches)
    for given in (None, statistics):
        with pytest.raises(BudgetError, match=match) as caught:
            hf_vbp.prune(vit, batches, VBPConfig(target_latency=0.1, levers=levers, round_to=1), statistics=given)
        assert ("minimum_width" in str(caught.value)) == ("mlp" in levers)


def test_measured_models_with_narrower_mlps_are_not_those_of_tokens_alone(
    vit: Any, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    _by_macs(monkeypatch, vit)
    both = hf_vbp.prune(vit, batches, VBPConfig(target_latency=0.7, round_to=1))
    plan = hf_vbp.prune(
        vit, batches, VBPConfig(target_latency=0.85, levers=("tokens",), round_to=1), statistics=both.statistics
    ).plan
    assert plan.widths == [WIDTH] * LAYERS


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"target_parameters": 0.8}])
def test_tokens_alone_cannot_meet_a_budget_of_neurons_or_parameters(vit: Any, budget: dict[str, float]) -> None:
    config = VBPConfig(**budget, levers=("tokens",), merge_tokens=3)
    with pytest.raises(ConfigurationError, match=r"do not change the number of .*levers mlp,tokens"):
        hf_vbp.prune(vit, [], config)


def _pixels(batches: Batches) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.cat([batch["pixel_values"] for batch in batches])}
