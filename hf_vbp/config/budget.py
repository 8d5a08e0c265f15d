"""The budget: how much to remove, or how much of the model to keep."""

from dataclasses import dataclass
from typing import Any

from hf_vbp.errors import BudgetError, ConfigurationError

# The name of each cost in messages.
COSTS = {"ratio": "hidden neurons", "parameters": "parameters", "macs": "MACs", "latency": "latency"}


@dataclass(frozen=True)
class Budget:
    """What was asked for.

    Attributes:
        kind: ``"ratio"`` (share of the hidden neurons to remove), or ``"parameters"``, ``"macs"``, ``"latency"``
            (share of the whole model to keep).
        asked: The requested share, in (0, 1).

    Raises:
        ConfigurationError: Unknown kind.
        BudgetError: The share is not a number between 0 and 1.
    """

    kind: str
    asked: float

    def __post_init__(self) -> None:
        if self.kind not in COSTS:
            raise ConfigurationError(f"Unknown budget {self.kind!r}; expected one of {', '.join(COSTS)}.")
        if isinstance(self.asked, bool) or not isinstance(self.asked, int | float) or not 0 < self.asked < 1:
            meaning = "to remove" if self.kind == "ratio" else "to keep"
            raise BudgetError(
                f"The share of {COSTS[self.kind]} {meaning} must be between 0 and 1, got {self.asked!r}. "
                "Give a fraction, for instance 0.5 for half."
            )

    @property
    def removes(self) -> bool:
        """Whether the share counts what is removed; otherwise it counts what is kept."""
        return self.kind == "ratio"

    def is_met_by(self, achieved: float) -> bool:
        """Return whether an achieved share satisfies the budget."""
        # A ratio such as 0.3 of 512 is not exact in binary; without the tolerance one more neuron would be removed.
        return achieved >= self.asked - 1e-9 if self.removes else achieved <= self.asked + 1e-9

    def to_dict(self, achieved: float) -> dict[str, Any]:
        """Return the JSON form with the outcome: ``kind``, ``asked``, ``achieved``."""
        return {"kind": self.kind, "asked": self.asked, "achieved": achieved}
