"""Plans are read strictly: a value of another type is refused, never converted."""

from typing import Any

import pytest

from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import PlanError
from hf_vbp.pruning.plan import PruningPlan, SitePlan


def content() -> dict[str, Any]:
    plan = PruningPlan((SitePlan("mlp", 4, (0, 1, 2)),), VBPConfig(ratio=0.25), 0.25, "weights", "statistics")
    return plan.to_dict()


@pytest.mark.parametrize("kept", [[0.5, 1.7], [False, True], "0123", {"1": 2}, [None], None])
def test_kept_neurons_of_another_type_are_refused(kept: Any) -> None:
    changed = content()
    changed["sites"][0]["kept"] = kept
    with pytest.raises(PlanError, match="kept"):
        PruningPlan.from_dict(changed)


@pytest.mark.parametrize(("name", "value"), [("weights", 1), ("sites", []), ("threshold", "0.5"), ("predicted", [])])
def test_fields_of_another_type_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(PlanError, match=name):
        PruningPlan.from_dict({**content(), name: value})


def test_other_statistics_than_those_of_the_plan_are_refused() -> None:
    plan = PruningPlan.from_dict(content())
    plan.check_statistics("statistics")
    with pytest.raises(PlanError, match="made from other statistics"):
        plan.check_statistics("others")
