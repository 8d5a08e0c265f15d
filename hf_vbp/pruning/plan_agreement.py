"""Whether a plan that was read from a file agrees with the model and the statistics that it is applied to."""

import math

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.costs.widths import width_costs
from hf_vbp.errors import PlanError
from hf_vbp.pruning.damage import Damage
from hf_vbp.pruning.levers import counts_for
from hf_vbp.pruning.plan import PruningPlan

# Predictions of other machines differ by the rounding of float64 sums and solutions.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-6


def check_plan_of_model(plan: PruningPlan, prepared: PreparedModel) -> None:
    """Refuse a plan that was not made for this model, or whose merged tokens or cost contradict its kept neurons.

    Parameters and bytes may differ by those outside the MLPs, since the head may be another one, and MACs on inputs of
    another size.

    Args:
        plan: The plan.
        prepared: The dense model.

    Raises:
        PlanError: It was made for another model, or is damaged.
    """
    plan.check_model(prepared.fingerprint, [(site.name, site.intermediate_size) for site in prepared.sites])
    number = plan.config.merge_tokens
    if number is not None and plan.merged_tokens != counts_for(prepared.model, number):
        raise PlanError(
            f"merged_tokens of the pruning plan is {list(plan.merged_tokens)}, but merge_tokens is {number}. The plan "
            "is damaged; make it again."
        )
    if not plan.cost:
        return
    dense = width_costs(prepared).dense
    pruned = width_costs(prepared, plan.merged_tokens).of(plan.widths)
    for name in dense:
        found = {"dense": plan.cost["dense"][name], "pruned": plan.cost["pruned"][name]}
        expected = {"dense": dense[name], "pruned": pruned[name]}
        same = [found[model] == expected[model] for model in expected]
        shifted = name == "macs" or found["dense"] - found["pruned"] == dense[name] - pruned[name]
        if not all(same) and (any(same) or not shifted):
            model = "dense" if not same[0] else "pruned"
            raise PlanError(
                f"cost.{model}.{name} of the pruning plan is {found[model]:,}, but for its kept neurons it is "
                f"{expected[model]:,}. The plan is damaged; make it again."
            )


def check_prediction(plan: PruningPlan, found: Damage) -> None:
    """Refuse a plan whose predicted output error is not that of its kept neurons and its compensation.

    Args:
        plan: The plan.
        found: The prediction for its kept neurons, computed again.

    Raises:
        PlanError: They differ by more than rounding.
    """
    if not plan.predicted:
        return
    expected = found.to_dict()
    names = ("relative_output_error", "metric", "exact")
    pairs = [(name, plan.predicted[name], expected[name]) for name in names]
    by_site = plan.predicted["relative_output_error_by_site"]
    pairs += [(site.name, error, site.relative) for site, error in zip(found.sites, by_site, strict=True)]
    for name, recorded, again in pairs:
        if not _same(recorded, again):
            raise PlanError(
                f"predicted of the pruning plan: {name} is {recorded}, but with its kept neurons and compensation "
                f"{plan.config.compensation} it is {again}. The plan is damaged, or of another version of hf_vbp; "
                "make it again."
            )


def _same(recorded: float | str, again: float | str) -> bool:
    if isinstance(recorded, str) or isinstance(again, str):
        return recorded == again
    return math.isclose(recorded, again, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
