"""Read the fields of the JSON form of a plan, and refuse fields that contradict each other."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypedDict

from hf_vbp._progress import shown
from hf_vbp.config.limits import AUTO, Limits
from hf_vbp.config.vbp_config import VBPConfig, field_of_budget
from hf_vbp.errors import HfVbpError, PlanError
from hf_vbp.results.checks import find_problem
from hf_vbp.results.figures import Positive, PositiveCount, open_section
from hf_vbp.results.outcome import Costs, RelativeError
from hf_vbp.results.plan import Rounding

AGAIN = "The plan is damaged; make it again with `hf-vbp plan`."
BUDGET_FIELDS = ("kind", "asked", "achieved")
SITE_FIELDS = ("name", "intermediate_size", "kept")
PLAN_FIELDS = (
    "version", "criterion", "compensation", "scope", "budget", "minimum_width", "round_to", "levers", "merge_tokens",
    "threshold", "options", "predicted", "cost", "latency", "merged_tokens", "rounding", "weights", "statistics",
    "cost_part", "sites", *(entry.name for entry in fields(VBPConfig) if entry.name.startswith("latency_")),
)  # fmt: skip
# Shares are written with all their digits; other machines may round the last ones differently.
SAME_SHARE = 1e-9
_KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "named fields"}


class _Predicted(TypedDict):
    relative_output_error: RelativeError
    relative_output_error_by_site: list[RelativeError]
    metric: Literal["gradient", "identity"]
    exact: bool


@open_section
class _Latency(TypedDict, total=False):
    device: str
    device_name: str
    dtype: str
    batch: PositiveCount
    threads: PositiveCount
    compiled: bool
    repetitions: PositiveCount
    dense_ms: Positive
    pruned_ms: Positive
    speedup: Positive
    speedup_interval: list[Positive]


_SECTIONS = {"predicted": _Predicted, "cost": Costs, "latency": _Latency, "rounding": Rounding}


def read_field(content: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a field of this type.

    Raises:
        PlanError: It is missing or of another type.
    """
    if name not in content:
        raise PlanError(f"The pruning plan has no field {name}; make it again with `hf-vbp plan`.")
    value = content[name]
    if not isinstance(value, kind):
        raise PlanError(
            f"{name} of the pruning plan is {shown(value)}; expected {_KINDS[kind]}. Make it again with `hf-vbp plan`."
        )
    return value


def read_number(value: Any, name: str) -> float:
    """Return a finite number.

    Raises:
        PlanError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise PlanError(
            f"{name} of the pruning plan is {shown(value)}; expected a finite number. Make the plan again."
        )
    return float(value)


def read_section(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return ``predicted``, ``cost``, ``latency`` or ``rounding``; empty where the plan has none.

    Raises:
        PlanError: A value in it is missing, unknown, or of another type.
    """
    value: dict[str, Any] = read_field({name: {}, **content}, name, dict)
    problem = find_problem(value, _SECTIONS[name], name) if value else None
    if problem is not None:
        raise PlanError(f"The pruning plan cannot be used: {problem} {AGAIN}")
    return value


def refuse_unknown(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse fields that a plan does not have.

    Raises:
        PlanError: There is one; the message names it and the known ones.
    """
    unknown = next((name for name in content if name not in known), None)
    if unknown is not None:
        raise PlanError(f"{where} has the unknown field {shown(unknown)}; expected {', '.join(known)}. {AGAIN}")


def read_config(content: Mapping[str, Any], budget: Mapping[str, Any]) -> VBPConfig:
    """Return the configuration of a plan.

    Raises:
        PlanError: A field of it is missing or has an invalid value.
    """
    options = read_field({"options": {}, **content}, "options", dict)
    refuse_unknown(options, ("criterion", "compensation"), "options of the pruning plan")
    criterion, compensation = (read_field({name: {}, **options}, name, dict) for name in ("criterion", "compensation"))
    asked = read_field(budget, "asked", object)
    if asked is None:
        raise PlanError("budget.asked of the pruning plan is empty; make it again with `hf-vbp plan`.")
    try:
        return VBPConfig(
            **{field_of_budget(read_field(budget, "kind", str)): asked},
            criterion=read_field(content, "criterion", str),
            compensation=read_field(content, "compensation", str),
            scope=read_field(content, "scope", str),
            minimum_width=content.get("minimum_width", 1),
            round_to=content.get("round_to", 1),
            **{name: content[name] for name in content if name.startswith("latency_")},
            levers=content.get("levers"),
            merge_tokens=content.get("merge_tokens"),
            criterion_options=criterion,
            compensation_options=_renamed(compensation),
        )
    except PlanError:
        raise
    except HfVbpError as error:
        raise PlanError(f"The pruning plan cannot be used: {error}") from error


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    # Plans of the first version have the British spelling of this option.
    return {"regularization" if name == "regularisation" else name: value for name, value in options.items()}


def check_consistent(plan: Any) -> None:
    """Refuse a plan whose fields contradict each other.

    Args:
        plan: A :class:`hf_vbp.PruningPlan` whose fields have the right types.

    Raises:
        PlanError: Two fields contradict each other; the message names both.
    """
    names = [site.name for site in plan.sites]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise PlanError(f"The pruning plan has the site {shown(twice)} twice. {AGAIN}")
    _check_widths(plan)
    _check_achieved(plan)
    errors = plan.predicted.get("relative_output_error_by_site", names)
    if len(errors) != len(names):
        raise PlanError(
            f"predicted.relative_output_error_by_site of the pruning plan has {len(errors)} values for {len(names)} "
            f"sites. {AGAIN}"
        )
    _check_threshold(plan)
    levers = plan.config.used_levers
    if any(plan.merged_tokens) and "tokens" not in levers:
        raise PlanError(
            f"merged_tokens of the pruning plan merges tokens, but its levers are {', '.join(levers)}. {AGAIN}"
        )


def _check_widths(plan: Any) -> None:
    config, multiple = plan.config, plan.rounding.get("multiple")
    if (config.round_to == AUTO) != (multiple is not None):
        raise PlanError(
            f"round_to of the pruning plan is {shown(config.round_to)}, and rounding.multiple {shown(multiple)}; "
            f"expected a measured multiple with 'auto', and none otherwise. {AGAIN}"
        )
    limits = Limits(config.minimum_width, multiple or config.limits.round_to)
    for site in plan.sites:
        least = limits.floor(site.intermediate_size)
        if site.width < least:
            raise PlanError(
                f"{site.name}: kept has {site.width} neurons, but minimum_width of the pruning plan is "
                f"{config.minimum_width}. {AGAIN}"
            )
        if limits.rounded(site.width, site.intermediate_size) != site.width:
            raise PlanError(
                f"{site.name}: kept has {site.width} neurons, which is no multiple of {limits.round_to} (round_to of "
                f"the pruning plan). {AGAIN}"
            )


def _check_achieved(plan: Any) -> None:
    budget, achieved, cost = plan.budget, plan.achieved, plan.cost
    if achieved < 0:
        raise PlanError(f"budget.achieved of the pruning plan is {achieved:g}; expected at least 0. {AGAIN}")
    if budget.milliseconds is None and not budget.is_met_by(achieved):
        raise PlanError(
            f"budget.achieved of the pruning plan is {achieved:g}, which does not meet budget.asked, {budget.asked:g} "
            f"(kind {budget.kind}). {AGAIN}"
        )
    if budget.kind == "ratio":
        found, source = plan.ratio, "by the kept neurons"
    elif budget.kind in ("parameters", "macs") and cost:
        dense, found, source = cost["dense"][budget.kind], 0.0, "by its cost"
        found = cost["pruned"][budget.kind] / dense if dense else 0.0
    else:
        return
    if abs(found - achieved) > SAME_SHARE:
        raise PlanError(
            f"budget.achieved of the pruning plan is {achieved:g}, but {source} it is {found:g} (kind {budget.kind}). "
            f"{AGAIN}"
        )


def _check_threshold(plan: Any) -> None:
    compared = plan.config.scope == "global" and plan.widths != plan.dense_widths
    if plan.threshold is not None and not compared:
        raise PlanError(
            f"threshold of the pruning plan is {plan.threshold:g}, but with scope {plan.config.scope} and a share of "
            f"{plan.ratio:.4g} of the neurons removed there is none. {AGAIN}"
        )
