"""How much must go: what a user asks for, and where the order of removal is cut to meet it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_vbp.errors import BudgetError, ConfigurationError

# What a cost is called in a sentence.
COSTS = {"ratio": "hidden neurons", "parameters": "parameters", "macs": "MACs", "latency": "latency"}


@dataclass(frozen=True)
class Budget:
    """What was asked for and what a plan achieves.

    Attributes:
        kind: ``"ratio"`` (hidden neurons to remove), or ``"parameters"``, ``"macs"``, ``"latency"`` (what is
            left of the whole model).
        asked: The fraction asked for, in (0, 1).
        achieved: The fraction that the plan achieves; ``None`` before there is a plan.
    """

    kind: str
    asked: float
    achieved: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in COSTS:
            raise ConfigurationError(f"Unknown budget {self.kind!r}; expected one of {', '.join(COSTS)}.")
        if isinstance(self.asked, bool) or not isinstance(self.asked, int | float) or not 0 < self.asked < 1:
            meaning = "to remove" if self.kind == "ratio" else "to keep"
            raise BudgetError(
                f"The share of {COSTS[self.kind]} {meaning} must lie between 0 and 1, got {self.asked!r}. "
                "Give a fraction, for instance 0.5 for half."
            )

    @property
    def removes(self) -> bool:
        """Whether the fraction counts what goes; else it counts what stays."""
        return self.kind == "ratio"

    def is_met_by(self, achieved: float) -> bool:
        """Tell whether an achieved fraction satisfies the budget."""
        # A ratio such as 0.3 of 512 is not exact in binary; a millionth of a neuron must not cost a whole one.
        return achieved >= self.asked - 1e-9 if self.removes else achieved <= self.asked + 1e-9

    def with_achieved(self, achieved: float) -> "Budget":
        """Return the same budget with what a plan achieves."""
        return replace(self, achieved=achieved)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: ``kind``, ``asked``, ``achieved``."""
        return {"kind": self.kind, "asked": self.asked, "achieved": self.achieved}


def one_budget(**asked: float | None) -> Budget:
    """Return the single budget among several options of which one must be given.

    Args:
        asked: One keyword per kind of budget; ``None`` where it was not given.

    Raises:
        ConfigurationError: None or more than one was given.
        BudgetError: The fraction is not between 0 and 1.
    """
    given = {kind: value for kind, value in asked.items() if value is not None}
    if len(given) != 1:
        got = ", ".join(given) if given else "none"
        raise ConfigurationError(f"Give exactly one budget of {', '.join(asked)}; got {got}.")
    kind, value = next(iter(given.items()))
    return Budget(kind, value)


def smallest_cut(
    cuts: Sequence[int], achieved: Callable[[int], float], budget: Budget, *, ceiling: str | None = None
) -> int:
    """Return the smallest allowed cut of the order of removal that meets a budget.

    Args:
        cuts: Allowed numbers of neurons to remove, ascending, the last removes all that may go.
        achieved: The fraction that a cut achieves; monotone in the cut.
        budget: What must be met.
        ceiling: What to add to the refusal where the budget cannot be met.

    Raises:
        BudgetError: Even the last cut does not meet the budget.
    """
    best = achieved(cuts[-1])
    if not budget.is_met_by(best):
        verb = "at most a share of" if budget.removes else "no less than a share of"
        action = "be removed" if budget.removes else "be kept"
        raise BudgetError(
            f"{COSTS[budget.kind]}: {budget.asked:g} cannot be reached by pruning the MLPs; "
            f"{verb} {best:.4g} can {action}. {ceiling or ''}".strip()
        )
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if budget.is_met_by(achieved(cuts[middle])):
            high = middle
        else:
            low = middle + 1
    return cuts[low]
