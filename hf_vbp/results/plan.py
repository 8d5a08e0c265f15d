"""The section ``plan``: how many neurons were removed, and by which method."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from hf_vbp.results.figures import Count, Fraction, NonNegative, Positive, PositiveCount, open_section

# A latency such as "12ms".
Milliseconds = Annotated[str, "a latency in milliseconds, such as 12ms"]


class BudgetOutcome(TypedDict):
    """The budget as requested and as achieved."""

    kind: Literal["ratio", "parameters", "macs", "latency"]
    asked: Fraction | Milliseconds
    achieved: NonNegative


@open_section
class PlanOptions(TypedDict, total=False):
    """Options of the criterion and of the compensation, by name."""

    criterion: dict[str, Any]
    compensation: dict[str, Any]


@open_section
class Rounding(TypedDict):
    """A measured multiple of the widths, with the conditions of the measurement."""

    multiple: PositiveCount
    device: str
    device_name: str
    dtype: str
    batch: PositiveCount
    threads: PositiveCount
    speedups: NotRequired[Annotated[dict[str, Positive], "per neuron, over widths as they come, by multiple"]]


class Plan(TypedDict):
    """The plan without the indices of the kept neurons, which are in ``plan.json``."""

    criterion: str
    compensation: str
    scope: Literal["global", "layer"]
    budget: BudgetOutcome
    ratio: Fraction
    minimum_width: NotRequired[Count]
    round_to: NotRequired[Annotated[PositiveCount, "multiple of the widths, as given or as measured"]]
    rounding: NotRequired[Rounding]
    options: NotRequired[PlanOptions]
    latency: NotRequired[Annotated[dict[str, Any], "measurements for a latency budget"]]
    dense_widths: list[Count]
    widths: list[Count]


def describe_plan(plan: Any) -> Plan:
    """Return the description of a :class:`hf_vbp.PruningPlan`."""
    written = plan.to_dict()
    names = ("criterion", "compensation", "scope", "budget", "minimum_width", "round_to", "options")
    described: Plan = {
        **{name: written[name] for name in names},  # type: ignore[typeddict-item]
        **({"round_to": plan.rounding["multiple"], "rounding": dict(plan.rounding)} if plan.rounding else {}),  # type: ignore[typeddict-item]
        **({"latency": written["latency"]} if "latency" in written else {}),
        "ratio": plan.ratio,
        "dense_widths": plan.dense_widths,
        "widths": plan.widths,
    }
    return described
