"""A pruning plan: the kept neurons of every site, and how they were chosen. Stored as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hf_vbp._progress import one_line, shown
from hf_vbp.config.budget import Budget
from hf_vbp.config.levers import MOST_TOKENS
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import OutputError, PlanError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.files.text import read_small_text
from hf_vbp.files.wrong_file import content_of, missing_or_special
from hf_vbp.pruning.plan_fields import (
    BUDGET_FIELDS,
    PLAN_FIELDS,
    SITE_FIELDS,
    check_consistent,
    read_config,
    read_field,
    read_number,
    read_section,
    refuse_unknown,
)
from hf_vbp.results.checks import strict_json

PLAN_VERSION = 1
# A plan with merged tokens, which a reader that does not know them must refuse.
MERGING_PLAN_VERSION = 2
LONGEST_NAME = 500
MOST_BLOCKS = 10_000
_WHOLE = "expected a whole number. The plan is damaged; make it again"


@dataclass(frozen=True)
class SitePlan:
    """The kept neurons of one MLP site.

    Attributes:
        name: The site's name in the model.
        intermediate_size: Its dense width.
        kept: Ascending indices of the kept hidden neurons.
    """

    name: str
    intermediate_size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if type(self.intermediate_size) is not int or not 0 < self.intermediate_size < 2**31:
            raise PlanError(f"{self.name}: intermediate_size is {shown(self.intermediate_size)}; {_WHOLE}.")
        wrong = [neuron for neuron in self.kept if type(neuron) is not int]
        if wrong:
            raise PlanError(f"{self.name}: kept holds {shown(wrong[0])}; {_WHOLE}.")
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
        cost_part: Name of the vision tower, where the model takes texts too and only the tower's cost counts.
        latency: Where it was measured: batch, dtype, threads, device, milliseconds of both models and the speed-up.
        merged_tokens: Tokens merged before each block; empty where none are.
        rounding: For ``round_to="auto"``: the ``multiple`` of the widths, the conditions under which it was measured
            (``device``, ``device_name``, ``dtype``, ``batch``, ``threads``), and the ``speedups`` per neuron.
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
    merged_tokens: tuple[int, ...] = ()
    rounding: Mapping[str, Any] = field(default_factory=dict)
    cost_part: str = ""

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
        return {
            "version": MERGING_PLAN_VERSION if self.merged_tokens else PLAN_VERSION,
            "criterion": self.config.criterion,
            "compensation": self.config.compensation,
            "scope": self.config.scope,
            "budget": self.budget.to_dict(self.achieved),
            "minimum_width": self.config.minimum_width,
            "round_to": self.config.round_to,
            **self.config.latency_options,
            **_lever_fields(self.config),
            "threshold": self.threshold,
            "options": {
                "criterion": dict(self.config.criterion_options),
                "compensation": dict(self.config.compensation_options),
            },
            "predicted": dict(self.predicted),
            **({"cost": {name: dict(cost) for name, cost in self.cost.items()}} if self.cost else {}),
            **({"cost_part": self.cost_part} if self.cost_part else {}),
            **({"latency": dict(self.latency)} if self.latency else {}),
            **({"merged_tokens": list(self.merged_tokens)} if self.merged_tokens else {}),
            **({"rounding": dict(self.rounding)} if self.rounding else {}),
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
            PlanError: A field is missing, unknown, has an invalid value, or contradicts another one.
        """
        version = content.get("version") if isinstance(content, Mapping) else None
        if type(version) is not int or version not in (PLAN_VERSION, MERGING_PLAN_VERSION):
            raise PlanError(
                f"Expected a pruning plan of version {PLAN_VERSION} or {MERGING_PLAN_VERSION}, got version "
                f"{shown(version)}. "
                "Make it again with this version of hf_vbp."
            )
        refuse_unknown(content, PLAN_FIELDS, "The pruning plan")
        sites = tuple(_site(site) for site in read_field(content, "sites", list))
        if not sites:
            raise PlanError("The pruning plan has no sites; make it again with `hf-vbp plan`.")
        budget = read_field(content, "budget", dict)
        refuse_unknown(budget, BUDGET_FIELDS, "budget of the pruning plan")
        threshold = content.get("threshold")
        plan = cls(
            sites=sites,
            config=read_config(content, budget),
            achieved=read_number(read_field(budget, "achieved", object), "budget.achieved"),
            weights=read_field(content, "weights", str),
            statistics=read_field(content, "statistics", str),
            threshold=None if threshold is None else read_number(threshold, "threshold"),
            predicted=read_section(content, "predicted"),
            cost=read_section(content, "cost"),
            latency=read_section(content, "latency"),
            merged_tokens=_merged_tokens(content, version),
            rounding=read_section(content, "rounding"),
            cost_part=read_field({"cost_part": "", **content}, "cost_part", str),
        )
        check_consistent(plan)
        return plan

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON and return its path; an existing file is replaced in one step.

        Raises:
            OutputError: It cannot be written; an existing file is not modified.
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
        path = Path(path)
        reason = missing_or_special(path)
        if reason is not None:
            raise PlanError(f"{path} cannot be read as a pruning plan: {reason}.")
        try:
            content = strict_json(read_small_text(path))
        except (OSError, ValueError, RecursionError) as error:
            found = content_of(path) or ("not text" if isinstance(error, UnicodeDecodeError) else None)
            if found is not None and "JSON" not in found:
                advice = " Statistics are given to --statistics." if "statistics" in found else ""
                raise PlanError(f"{path} is {found}, not a pruning plan, which is JSON.{advice}") from error
            raise PlanError(f"{path} cannot be read as a pruning plan: {one_line(error)}") from error
        if not isinstance(content, dict) or ("version" not in content and "sites" not in content):
            raise PlanError(f"{path} is {content_of(path)}, not a pruning plan. Make one with `hf-vbp plan`.")
        return cls.from_dict(content)

    def check_statistics(self, digest: str) -> None:
        """Refuse statistics that this plan was not made from.

        Args:
            digest: The :func:`hf_vbp.pruning.make_plan.statistics_digest` of the statistics.

        Raises:
            PlanError: They differ.
        """
        if digest != self.statistics:
            raise PlanError(
                f"The plan was made from other statistics ({self.statistics[:12]}, these are {digest[:12]}). "
                "Apply it with the statistics it was made from, or make a new plan."
            )

    def check_model(self, weights: str, names_and_widths: Sequence[tuple[str, int]]) -> None:
        """Refuse a model that this plan was not made for.

        Args:
            weights: Fingerprint of the model's site weights.
            names_and_widths: Name and width of each of its sites.

        Raises:
            PlanError: The sites or the weights differ.
        """
        widths = [width for _, width in names_and_widths]
        if widths == self.dense_widths:
            pairs = zip(self.sites, names_and_widths, strict=True)
            other = next(((site.name, name) for site, (name, _) in pairs if site.name != name), None)
            if other is not None:
                raise PlanError(
                    f"The plan has the MLP site {shown(other[0])} where the model has {shown(other[1])}. Apply it to "
                    "the base model it was made for, loaded with the same class, or make a new plan."
                )
        else:
            raise PlanError(
                f"The plan is for {len(self.sites)} MLP sites of widths {self.dense_widths}, "
                f"but the model has {len(widths)} of widths {widths}. Apply it to the base model it was made for."
            )
        if weights != self.weights:
            raise PlanError(
                f"The plan was made for other weights ({self.weights[:12]}, the model's are {weights[:12]}). "
                "Load the base model at the revision the plan was made for, or make a new plan."
            )


def _merged_tokens(content: Mapping[str, Any], version: int) -> tuple[int, ...]:
    counts = read_field({"merged_tokens": [], **content}, "merged_tokens", list)
    valid = len(counts) <= MOST_BLOCKS and all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)
    if not valid or any(counts) != (version == MERGING_PLAN_VERSION):
        raise PlanError(
            f"merged_tokens of the pruning plan is {shown(counts)} in version {version}; expected a whole number for "
            f"each block, in version {MERGING_PLAN_VERSION}. The plan is damaged; make it again."
        )
    return tuple(counts)


def _lever_fields(config: VBPConfig) -> dict[str, Any]:
    fields = {"levers": None if config.levers is None else list(config.levers), "merge_tokens": config.merge_tokens}
    return {name: value for name, value in fields.items() if value is not None}


def _site(content: Any) -> SitePlan:
    if not isinstance(content, Mapping):
        raise PlanError(f"The pruning plan has the site {shown(content)}; expected name, intermediate_size and kept.")
    refuse_unknown(content, SITE_FIELDS, "A site of the pruning plan")
    name = read_field(content, "name", str)
    if not name:
        raise PlanError("The pruning plan has a site with an empty name; make it again.")
    if len(name) > LONGEST_NAME:
        raise PlanError(f"The pruning plan has a site name of {len(name)} characters; make it again.")
    return SitePlan(name, read_field(content, "intermediate_size", object), tuple(read_field(content, "kept", list)))
