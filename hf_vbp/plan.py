"""A pruning plan: which neurons of which site stay, and why. JSON on disk, bit for bit the same when re-applied."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_vbp.atomic import atomic_write
from hf_vbp.budget import Budget
from hf_vbp.errors import ConfigurationError, OutputError, PlanError

PLAN_VERSION = 1


@dataclass(frozen=True)
class SitePlan:
    """What stays of one MLP site.

    Attributes:
        name: The site's name, for people; files go by the position of the site.
        intermediate_size: Its dense width.
        kept: Ascending indices of the hidden neurons that stay.
    """

    name: str
    intermediate_size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(first < second for first, second in zip(self.kept, self.kept[1:], strict=False))
        if not ascending or (self.kept and not 0 <= self.kept[0] <= self.kept[-1] < self.intermediate_size):
            raise PlanError(
                f"{self.name}: the kept neurons must be ascending indices below {self.intermediate_size}, "
                "each once. The plan is damaged; make it again."
            )

    @property
    def width(self) -> int:
        """The number of neurons that stay."""
        return len(self.kept)

    def kept_indices(self) -> torch.Tensor:
        """Return the kept neurons as a tensor ``(width,)`` int64."""
        return torch.tensor(self.kept, dtype=torch.int64)


@dataclass(frozen=True)
class PruningPlan:
    """Which neurons stay at every site, with all that is needed to tell why and to apply it again.

    Attributes:
        sites: One entry per MLP site, in block order.
        criterion: What made the scores.
        compensation: What is done to the weights that stay.
        scope: ``"global"`` or ``"layer"``.
        budget: What was asked for and what this plan achieves.
        weights: Fingerprint of the site weights that the plan was made for.
        statistics: Fingerprint of the statistics that it was made from.
        minimum_width: The floor per site.
        round_to: The multiple that widths were rounded to.
        threshold: The highest score that was removed; ``None`` where scores of sites were not compared.
        predicted: Expected damage on the calibration data, by name.
        options: Options of the criterion and of the compensation, under these two names.
    """

    sites: tuple[SitePlan, ...]
    criterion: str
    compensation: str
    scope: str
    budget: Budget
    weights: str
    statistics: str
    minimum_width: int = 1
    round_to: int = 1
    threshold: float | None = None
    predicted: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def widths(self) -> list[int]:
        """The width of every site after pruning, in block order."""
        return [site.width for site in self.sites]

    @property
    def dense_widths(self) -> list[int]:
        """The width of every site before pruning, in block order."""
        return [site.intermediate_size for site in self.sites]

    @property
    def ratio(self) -> float:
        """The share of hidden neurons that goes, between 0 and 1."""
        return 1 - sum(self.widths) / sum(self.dense_widths)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the plan."""
        return {
            "version": PLAN_VERSION,
            "criterion": self.criterion,
            "compensation": self.compensation,
            "scope": self.scope,
            "budget": self.budget.to_dict(),
            "minimum_width": self.minimum_width,
            "round_to": self.round_to,
            "threshold": self.threshold,
            "options": dict(self.options),
            "predicted": dict(self.predicted),
            "weights": self.weights,
            "statistics": self.statistics,
            "sites": [
                {"name": site.name, "intermediate_size": site.intermediate_size, "kept": list(site.kept)}
                for site in self.sites
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "PruningPlan":
        """Read the JSON form of a plan.

        Args:
            content: What :meth:`to_dict` returned.

        Raises:
            PlanError: A field is missing or does not hold what it should.
        """
        if not isinstance(content, Mapping) or content.get("version") != PLAN_VERSION:
            version = content.get("version") if isinstance(content, Mapping) else None
            raise PlanError(
                f"Expected a pruning plan of version {PLAN_VERSION}, got version {version!r}. "
                "Make it again with this version of hf_vbp."
            )
        try:
            sites = tuple(
                SitePlan(str(site["name"]), int(site["intermediate_size"]), tuple(map(int, site["kept"])))
                for site in content["sites"]
            )
            threshold = content.get("threshold")
            return cls(
                sites=sites,
                criterion=str(content["criterion"]),
                compensation=str(content["compensation"]),
                scope=str(content["scope"]),
                budget=Budget(**content["budget"]),
                weights=str(content["weights"]),
                statistics=str(content["statistics"]),
                minimum_width=int(content.get("minimum_width", 1)),
                round_to=int(content.get("round_to", 1)),
                threshold=None if threshold is None else float(threshold),
                predicted=dict(content.get("predicted", {})),
                options=dict(content.get("options", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"The pruning plan is malformed ({error!r}); make it again with `hf-vbp plan`.") from error

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON and return its path; a file that is there is replaced in one step.

        Raises:
            OutputError: It cannot be written; what was there is not modified.
        """
        path = Path(path)
        try:
            atomic_write(path, self.to_json())
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}. Choose another output.") from error
        return path

    def to_json(self) -> str:
        """Return the JSON text of the plan, the same text for the same plan."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Read a plan from a JSON file.

        Raises:
            PlanError: The file is missing, is not JSON, or does not hold a plan.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanError(f"{path} cannot be read as a pruning plan: {error}") from error
        return cls.from_dict(content)

    def check_model(self, weights: str, names_and_widths: Sequence[tuple[str, int]]) -> None:
        """Refuse a model that this plan was not made for.

        Args:
            weights: Fingerprint of the model's site weights.
            names_and_widths: Name and width of each of its sites.

        Raises:
            PlanError: The sites or the weights differ.
        """
        widths = [width for _, width in names_and_widths]
        if widths != self.dense_widths:
            raise PlanError(
                f"The plan is for {len(self.sites)} MLP sites of widths {self.dense_widths}, "
                f"but the model has {len(widths)} of widths {widths}. Apply it to the base model it was made for."
            )
        if weights != self.weights:
            raise PlanError(
                f"The plan was made for other weights ({self.weights[:12]}, the model's are {weights[:12]}). "
                "Load the base model at the revision the plan was made for, or make a new plan."
            )


def known(kind: str, name: str, names: Sequence[str]) -> str:
    """Return ``name`` if it is one of ``names``.

    Raises:
        ConfigurationError: It is not; the message lists what there is.
    """
    if name not in names:
        raise ConfigurationError(f"Unknown {kind} {name!r}; expected one of {', '.join(sorted(names))}.")
    return name
