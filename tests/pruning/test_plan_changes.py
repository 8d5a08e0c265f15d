"""Every change of a plan that contradicts the rest of it, the model or the statistics is refused by name."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp import VBPConfig
from hf_vbp.errors import PlanError
from hf_vbp.pruning.plan import PruningPlan

from ..conftest import make_model

Change = Callable[[dict[str, Any]], object]


class Made:
    """A model, its statistics, and plans for several budgets."""

    def __init__(self) -> None:
        self.model = make_model()
        generator = torch.Generator().manual_seed(1)
        images = [{"pixel_values": torch.randn(8, 3, 32, 32, generator=generator)} for _ in range(3)]
        self.statistics = hf_vbp.collect_statistics(self.model, images, VBPConfig())
        configs = {
            "ratio": VBPConfig(ratio=0.5),
            "layer": VBPConfig(ratio=0.5, scope="layer"),
            "macs": VBPConfig(target_macs=0.75, merge_tokens=2),
            "parameters": VBPConfig(target_parameters=0.8, round_to=4),
        }
        self.plans = {name: hf_vbp.make_plan(self.model, self.statistics, one) for name, one in configs.items()}

    def apply(self, content: dict[str, Any]) -> Any:
        return hf_vbp.apply_plan(self.model, PruningPlan.from_dict(content), self.statistics)


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def site(index: int, **fields: Any) -> Change:
    return lambda plan: plan["sites"][index].update(fields)


def swap_names(plan: dict[str, Any]) -> None:
    first, second = plan["sites"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def another_neuron(plan: dict[str, Any]) -> None:
    kept = plan["sites"][0]["kept"]
    other = next(index for index in range(48) if index not in kept)
    plan["sites"][0]["kept"] = sorted([*kept[1:], other])


def within(section: str, **fields: Any) -> Change:
    return lambda plan: plan[section].update(fields)


def cost(model: str, **fields: Any) -> Change:
    return lambda plan: plan["cost"][model].update(fields)


CASES: list[tuple[str, Change, str]] = [
    ("ratio", site(0, name="banana"), "'banana' where the model has 'vit.layers.0.mlp'"),
    ("ratio", swap_names, "'vit.layers.1.mlp' where the model has"),
    ("ratio", site(1, name="vit.layers.0.mlp"), "'vit.layers.0.mlp' twice"),
    ("ratio", site(1, name=""), "empty name"),
    ("ratio", site(1, kept=[]), "vit.layers.1.mlp: kept has 0 neurons, but minimum_width"),
    ("ratio", lambda plan: plan["sites"].reverse(), "where the model has"),
    ("ratio", another_neuron, "predicted of the pruning plan: relative_output_error"),
    ("ratio", site(0, comment="x"), "site of the pruning plan has the unknown field 'comment'"),
    ("ratio", lambda plan: plan.update(foo=1), "unknown field 'foo'"),
    ("ratio", within("budget", foo=1), "budget of the pruning plan has the unknown field 'foo'"),
    ("ratio", within("options", foo={}), "options of the pruning plan has the unknown field 'foo'"),
    ("ratio", within("budget", achieved=0.9), "achieved of the pruning plan is 0.9, but by the kept neurons"),
    ("ratio", within("budget", asked=0.9), "does not meet budget.asked, 0.9"),
    ("ratio", within("budget", kind="macs"), r"achieved .*\(kind macs\)"),
    ("parameters", within("budget", achieved=0.1), "achieved of the pruning plan is 0.1, but by its cost"),
    ("macs", within("budget", achieved=0.1), "achieved of the pruning plan is 0.1, but by its cost"),
    ("parameters", within("budget", achieved=-1), "achieved of the pruning plan is -1; expected at least 0"),
    ("ratio", lambda plan: plan.update(minimum_width=47), "minimum_width of the pruning plan is 47"),
    ("parameters", lambda plan: plan.update(round_to=32), "no multiple of 32"),
    ("parameters", lambda plan: plan.update(round_to="auto"), "round_to of the pruning plan is 'auto'"),
    ("ratio", lambda plan: plan.update(scope="layer"), "threshold .* scope layer"),
    ("layer", lambda plan: plan.update(threshold=0.5), "threshold of the pruning plan is 0.5"),
    ("ratio", lambda plan: plan.update(compensation="mean"), "predicted .* compensation mean"),
    ("ratio", lambda plan: plan["options"].update(compensation={"ridge": 1.0}), "predicted of the pruning plan"),
    ("ratio", within("predicted", relative_output_error=-5), "relative_output_error is -5; expected at least"),
    ("ratio", within("predicted", relative_output_error=0.0), "relative_output_error is 0.0, but with"),
    ("ratio", within("predicted", relative_output_error_by_site=[0.1]), "has 1 values for 3 sites"),
    ("ratio", within("predicted", relative_output_error_by_site=[0.1] * 3), "vit.layers.0.mlp is 0.1, but with"),
    ("ratio", within("predicted", metric="identity"), "metric is identity"),
    ("ratio", within("predicted", metric="banana"), "metric is \"banana\"; expected one of 'gradient', 'identity'"),
    ("ratio", within("predicted", exact="yes"), "exact is \"yes\"; expected true or false"),
    ("ratio", within("predicted", exact=False), "exact is False"),
    ("ratio", within("predicted", foo=1), "predicted.foo is not a known field"),
    ("ratio", cost("pruned", parameters=5), "cost.pruned.parameters of the pruning plan is 5, but"),
    ("ratio", cost("dense", macs=5), "cost.dense.macs of the pruning plan is 5, but"),
    ("ratio", cost("dense", bytes=-5), "cost.dense.bytes is -5; expected at least 0"),
    ("ratio", lambda plan: plan["cost"].pop("dense"), "cost.dense is missing"),
    ("ratio", lambda plan: plan.update(latency={"dense_ms": -1.0}), "latency.dense_ms is -1.0; expected more than 0"),
    ("ratio", lambda plan: plan.update(rounding={"multiple": 8}), "rounding.device is missing"),
    ("macs", lambda plan: plan.update(merge_tokens=1), "merge_tokens is 1"),
    ("macs", lambda plan: plan.update(merged_tokens=[0, 1, 2]), "merged_tokens of the pruning plan"),
    ("macs", lambda plan: (plan.pop("merge_tokens"), plan.update(merged_tokens=[0, 1, 2])), "cost.pruned.macs"),
    ("macs", lambda plan: plan.update(levers=["mlp"], merge_tokens=None), "its levers are mlp"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["ratio", "layer", "macs", "parameters"])
def test_an_unchanged_plan_is_applied(made: Made, name: str, tmp_path: Path) -> None:
    plan = made.plans[name]
    assert PruningPlan.load(plan.save(tmp_path / "plan.json")) == plan
    assert made.apply(plan.to_dict()) is not None


@pytest.mark.parametrize(("name", "change", "says"), CASES, ids=[f"{name}: {says}" for name, _, says in CASES])
def test_a_contradiction_is_refused_with_the_field_named(made: Made, name: str, change: Change, says: str) -> None:
    content = copy.deepcopy(made.plans[name].to_dict())
    change(content)
    with pytest.raises(PlanError, match=says):
        made.apply(content)


def test_a_head_of_another_size_changes_the_cost_and_not_the_plan(made: Made) -> None:
    plan = made.plans["ratio"]
    # As for a model with more labels, whose images have another size.
    more = {"parameters": 330, "macs": 77_000, "bytes": 1320}
    shifted = {name: {key: value + more[key] for key, value in one.items()} for name, one in plan.cost.items()}
    assert made.apply(replace(plan, cost=shifted).to_dict()) is not None


def test_a_key_twice_is_refused(made: Made, tmp_path: Path) -> None:
    path = made.plans["ratio"].save(tmp_path / "plan.json")
    path.write_text(path.read_text().replace('"scope"', '"scope": "layer",\n "scope"', 1))
    with pytest.raises(PlanError, match="the key 'scope' appears twice"):
        PruningPlan.load(path)


@pytest.mark.parametrize("name", ["backbone", "deit-teacher", "global", "layer"])
def test_plans_of_the_first_version_are_read(name: str) -> None:
    plan = PruningPlan.load(Path(__file__).parents[1] / "checkpoint" / "first_version" / name / "plan.json")
    assert plan.ratio == pytest.approx(plan.achieved)
