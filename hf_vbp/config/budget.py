"""The budget: how much to remove, or how much of the model to keep."""

import math
import re
from dataclasses import dataclass
from typing import Any

from hf_vbp._progress import shown
from hf_vbp.errors import BudgetError, ConfigurationError

DEFAULT_PRECISION = 0.03
"""Of a measured latency: the 95 % interval of the median is at most this share of it to either side."""

# The name of each cost in messages.
COSTS = {"ratio": "hidden neurons", "parameters": "parameters", "macs": "MACs", "latency": "latency"}


@dataclass(frozen=True)
class Budget:
    """The requested budget.

    Attributes:
        kind: ``"ratio"`` (share of the hidden neurons to remove), or ``"parameters"``, ``"macs"``, ``"latency"``
            (share of the whole model to keep).
        asked: The requested share, in (0, 1); for a latency also a time such as ``"12ms"``.

    Raises:
        ConfigurationError: Unknown kind.
        BudgetError: The share is not a number between 0 and 1, or the time is not positive.
    """

    kind: str
    asked: float | str

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in COSTS:
            raise ConfigurationError(f"Unknown budget {shown(self.kind)}; expected one of {', '.join(COSTS)}.")
        if self.kind == "latency" and isinstance(self.asked, str):
            if self.milliseconds is None:
                raise BudgetError(
                    f"The latency to keep must be a share between 0 and 1 or a time such as '12ms', got "
                    f"{shown(self.asked)}."
                )
            return
        if isinstance(self.asked, bool) or not isinstance(self.asked, int | float) or not 0 < self.asked < 1:
            meaning = "to remove" if self.kind == "ratio" else "to keep"
            time = " or a time such as '12ms'" if self.kind == "latency" else ""
            raise BudgetError(
                f"The share of {COSTS[self.kind]} {meaning} must be between 0 and 1, got {shown(self.asked)}. "
                f"Give a fraction, for instance 0.5 for half{time}."
            )

    @property
    def milliseconds(self) -> float | None:
        """The requested time in milliseconds; None for a share."""
        found = (
            re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*ms\s*", self.asked) if isinstance(self.asked, str) else None
        )
        return float(found[1]) if found and float(found[1]) > 0 else None

    @property
    def share(self) -> float:
        """The requested share.

        Raises:
            BudgetError: A time was requested, which is a share of a measured latency only.
        """
        if isinstance(self.asked, str):
            raise BudgetError(f"The budget of {self.asked} is a time, not a share.")
        return self.asked

    @property
    def removes(self) -> bool:
        """Whether the share is of removed neurons; otherwise it is the share to keep."""
        return self.kind == "ratio"

    def is_met_by(self, achieved: float) -> bool:
        """Return whether an achieved share satisfies the budget."""
        # A ratio such as 0.3 of 512 is not exact in binary; without the tolerance one more neuron would be removed.
        return achieved >= self.share - 1e-9 if self.removes else achieved <= self.share + 1e-9

    def check_removes(self) -> None:
        """Refuse a share that the dense model meets.

        Raises:
            BudgetError: Nothing would be removed.
        """
        if self.is_met_by(0.0 if self.removes else 1.0):
            change, example = ("larger", 0.5) if self.removes else ("smaller", 0.8)
            raise BudgetError(
                f"{COSTS[self.kind]}: {self.share:g} is met by the dense model, so nothing would be removed. Give a "
                f"{change} share, for instance {example}."
            )

    def unreachable(self, best: float, reason: str = "", means: str = "pruning the MLPs") -> BudgetError:
        """Return the error for a budget that cannot be met.

        Args:
            best: The share that can be reached.
            reason: A sentence that names the limit and the advice.
            means: By what it cannot be reached.
        """
        # Rounded so that the share in the message can be reached.
        if self.removes:
            reached = f"at most a share of {math.floor(best * 1e4) / 1e4:g} can be removed"
        else:
            reached = f"no less than a share of {math.ceil(best * 1e4) / 1e4:g} can be kept"
        return BudgetError(
            f"{COSTS[self.kind]}: {self.share:g} cannot be reached by {means}; {reached}. {reason}".strip()
        )

    def to_dict(self, achieved: float) -> dict[str, Any]:
        """Return the JSON form with the outcome: ``kind``, ``asked``, ``achieved``."""
        return {"kind": self.kind, "asked": self.asked, "achieved": achieved}
