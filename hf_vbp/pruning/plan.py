"""A pruning plan: the kept neurons of every site, and how they were chosen. Stored as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_vbp.config.budget import Budget
from hf_vbp.config.vbp_config import VBPConfig, field_of_budget
from hf_vbp.errors import HfVbpError, OutputError, PlanError
from hf_vbp.files.atomic import atomic_write

PLAN_VERSION = 1


@dataclass(frozen=True)
class SitePlan:
    """The kept neurons of one MLP site.

    Attributes:
        name: The site's name, for messages; a site is identified by its position.
        intermediate_size: Its dense width.
        kept: Ascending indices of the kept hidden neurons.
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
        """The number of kept neurons."""
        return len(self.kept)

    def kept_indices(self) -> torch.Tensor:
        """Return the kept neurons as a tensor ``(width,)`` int64."""
        return torch.tensor(self.kept, dtype=torch.int64)


@dataclass(frozen=True)
class PruningPlan:
    """The kept neurons of every site, how they were chosen, and all that is needed to apply the plan again.

    Attributes:
        sites: One entry per MLP site, in block order.
        config: The configuration that the plan was made with.
        achieved: The share that the plan achieves, in the unit of the budget.
        weights: Fingerprint of the site weights that the plan was made for.
        statistics: Fingerprint of the statistics that it was made from.
        threshold: The highest score that was removed; ``None`` where scores of sites were not compared.
        predicted: Predicted output error on the calibration data, by name.
        cost: ``parameters``, ``macs`` and ``bytes`` of the ``dense`` and of the ``pruned`` model.
        latency: Where it was measured: batch, dtype, threads, device, milliseconds of both models and the speed-up.
    """

    sites: tuple[SitePlan, ...]
    config: VBPConfig
    achieved: float
    weights: str
    statistics: str
    threshold: float | None = None
    predicted: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        """The requested budget."""
        return self.config.budget

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
        """The share of removed hidden neurons, between 0 and 1."""
        return 1 - sum(self.widths) / sum(self.dense_widths)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the plan."""
        batch = {} if self.config.latency_batch == 1 else {"latency_batch": self.config.latency_batch}
        return {
            "version": PLAN_VERSION,
            "criterion": self.config.criterion,
            "compensation": self.config.compensation,
            "scope": self.config.scope,
            "budget": self.budget.to_dict(self.achieved),
            "minimum_width": self.config.minimum_width,
            "round_to": self.config.round_to,
            **batch,
            "threshold": self.threshold,
            "options": {
                "criterion": dict(self.config.criterion_options),
                "compensation": dict(self.config.compensation_options),
            },
            "predicted": dict(self.predicted),
            **({"cost": {name: dict(cost) for name, cost in self.cost.items()}} if self.cost else {}),
            **({"latency": dict(self.latency)} if self.latency else {}),
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
            content: The result of :meth:`to_dict`.

        Raises:
            PlanError: A field is missing or has an invalid value.
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
            budget, options = content["budget"], content.get("options", {})
            config = VBPConfig(
                **{field_of_budget(budget["kind"]): budget["asked"]},
                criterion=content["criterion"],
                compensation=content["compensation"],
                scope=content["scope"],
                minimum_width=content.get("minimum_width", 1),
                round_to=content.get("round_to", 1),
                latency_batch=content.get("latency_batch", 1),
                criterion_options=options.get("criterion", {}),
                compensation_options=_renamed(options.get("compensation", {})),
            )
            threshold = content.get("threshold")
            return cls(
                sites=sites,
                config=config,
                achieved=float(budget["achieved"]),
                weights=str(content["weights"]),
                statistics=str(content["statistics"]),
                threshold=None if threshold is None else float(threshold),
                predicted=dict(content.get("predicted", {})),
                cost={name: dict(cost) for name, cost in content.get("cost", {}).items()},
                latency=dict(content.get("latency", {})),
            )
        except PlanError:
            raise
        except HfVbpError as error:
            raise PlanError(f"The pruning plan cannot be used: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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


def _renamed(options: Mapping[str, Any]) -> dict[str, Any]:
    # Plans of the first version have the British spelling of this option.
    return {"regularization" if name == "regularisation" else name: value for name, value in options.items()}
