"""The one verb: a model and images in, a smaller model, its plan and its figures out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_vbp.adapters import check_finite_weights, check_structure, find_sites
from hf_vbp.budget import Budget, one_budget
from hf_vbp.compensation import COMPENSATIONS
from hf_vbp.costs import describe_cost, latency_of_widths
from hf_vbp.criteria import CRITERIA, Ranking
from hf_vbp.plan import PruningPlan, known
from hf_vbp.planning import check_bias, make_plan, rank_sites
from hf_vbp.precision import own_precision
from hf_vbp.regularisation import NEED_HALVES
from hf_vbp.results import SCHEMA_VERSION, describe_base_model, describe_plan, versions
from hf_vbp.selection import SCOPES, Limits
from hf_vbp.statistics import collect_statistics, halves_agreement
from hf_vbp.surgery import apply_plan

if TYPE_CHECKING:
    from hf_vbp.statistics import ActivationStatistics

Progress = Callable[[int, int | None], None]


PRESETS: dict[str, dict[str, Any]] = {
    "best": {"criterion": "obs", "compensation": "linear"},
    "paper": {"criterion": "variance", "compensation": "mean", "scope": "global"},
}
"""The method by name: what wins (docs/beyond_the_paper.md), and exactly what the paper does."""


@dataclass(frozen=True)
class VBPConfig:
    """What to remove and how. Exactly one budget must be given.

    Attributes:
        ratio: Share of hidden neurons to remove over all MLPs, in (0, 1). The paper's "pruning ratio".
        target_parameters: Share of the model's parameters that must be left.
        target_macs: Share of the model's MACs that must be left.
        target_latency: Share of the model's latency on this device that must be left.
        criterion: What makes the scores: ``"obs"``, greedy elimination with refit, is what wins; the paper's is
            ``"variance"``. :data:`hf_vbp.criteria.CRITERIA` lists all.
        compensation: What is done to the weights that stay: ``"linear"``, least squares, is what wins; the
            paper's is ``"mean"``.
        scope: ``"global"`` ranks all neurons at once (the paper); ``"layer"`` takes the same share of each
            site, so that the result loads in plain transformers.
        minimum_width: Neurons that every site keeps.
        round_to: Multiple that widths are rounded to.
        criterion_options: What the criterion takes besides.
        compensation_options: What the compensation takes besides.

    Raises:
        ConfigurationError: No budget or more than one, or an unknown name.
        BudgetError: A share outside (0, 1).

    Example:
        >>> from hf_vbp import VBPConfig
        >>> VBPConfig(ratio=0.5).budget
        Budget(kind='ratio', asked=0.5, achieved=None)
        >>> VBPConfig.preset("paper", ratio=0.5).compensation
        'mean'
    """

    ratio: float | None = None
    target_parameters: float | None = None
    target_macs: float | None = None
    target_latency: float | None = None
    criterion: str = "obs"
    compensation: str = "linear"
    scope: str = "global"
    minimum_width: int = 1
    round_to: int = 1
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    compensation_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known("criterion", self.criterion, list(CRITERIA))
        known("compensation", self.compensation, list(COMPENSATIONS))
        known("scope", self.scope, list(SCOPES))
        _ = self.budget, self.limits

    @classmethod
    def preset(cls, name: str, **fields: Any) -> "VBPConfig":
        """Return a configuration with the method of a preset.

        Args:
            name: A key of :data:`PRESETS`; ``"paper"`` is exactly the paper's method.
            fields: The budget, and whatever else differs from the preset.

        Raises:
            ConfigurationError: There is no such preset.

        Example:
            >>> VBPConfig.preset("paper", ratio=0.5).criterion
            'variance'
        """
        return cls(**{**PRESETS[known("preset", name, list(PRESETS))], **fields})

    @property
    def budget(self) -> Budget:
        """The one budget that was given."""
        return one_budget(
            ratio=self.ratio,
            parameters=self.target_parameters,
            macs=self.target_macs,
            latency=self.target_latency,
        )

    @property
    def limits(self) -> Limits:
        """Floor and rounding."""
        return Limits(self.minimum_width, self.round_to)

    def needs(self, model: nn.Module) -> dict[str, Any]:
        """Return what must be gathered on ``model``, as options of :func:`hf_vbp.collect_statistics`.

        The output metric of ``obs`` and its token weights need predicted labels; for a bare backbone all output
        directions and all tokens count alike, and the plan says so (``predicted["metric"]``).
        """
        full = self.criterion == "obs" or self.compensation == "linear"
        classifies = "ForImageClassification" in type(model).__name__
        by_halves = self.compensation_options.get("regularisation") in NEED_HALVES
        return {
            "moments": "full" if full else "diagonal",
            "output_metric": self.criterion == "obs" and classifies,
            "half_comoments": full and by_halves,
            "token_weights": self.criterion == "obs" and classifies,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: every field that was given."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != {}}


@dataclass(frozen=True)
class PruningResult:
    """What :func:`prune` returns.

    Attributes:
        model: The pruned model.
        plan: Which neurons stayed, and why.
        statistics: What was gathered on the dense model.
        results: What was measured so far, in the form of ``vbp_results.json`` (docs/results.md).
    """

    model: Any
    plan: PruningPlan
    statistics: "ActivationStatistics"
    results: dict[str, Any] = field(default_factory=dict)


def check_request(model: nn.Module, config: VBPConfig) -> None:
    """Refuse before any expensive work what cannot be pruned as asked.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one that is not what its adapter says.
        NonFiniteError: The weights hold NaN or infinity.
        ConfigurationError: The compensation does not fit the model.
    """
    sites = find_sites(model)
    check_finite_weights(sites)
    check_bias(sites, config.compensation)
    check_structure(model, sites)


def prune(
    model: nn.Module,
    dataloader: Iterable[Any],
    config: VBPConfig,
    *,
    statistics: "ActivationStatistics | None" = None,
    inplace: bool = False,
    max_images: int | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> PruningResult:
    """Prune the MLPs of a vision transformer in one shot.

    The model computes in its own dtype, also inside autocast and after ``accelerator.prepare``.

    Args:
        model: A transformers ViT or DeiT, with any head, or a model of a registered family.
        dataloader: Batches of images, dicts with ``pixel_values`` ``(batch, channels, height, width)``; no
            labels are needed. Any iterable, or a ``DataLoader``.
        config: What to remove and how.
        statistics: Statistics gathered before on this model; ``dataloader`` is then read for ``snip`` only.
        inplace: Whether to change ``model`` itself instead of a copy.
        max_images: Stop gathering after this many images.
        provenance: Where the images came from, for the results file.
        progress: Called with the images done and their number where it is known.

    Returns:
        The pruned model with its plan, statistics and figures.

    Raises:
        UnsupportedModelError: The model cannot be pruned as it is.
        BudgetError: Pruning the MLPs cannot meet the budget.
        StatisticsError: The images give no usable statistics, or ``statistics`` belong to another model.

    Example:
        >>> import hf_vbp
        >>> from transformers import AutoModelForImageClassification
        >>> model = AutoModelForImageClassification.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", split="calibration", model=model)
        >>> result = hf_vbp.prune(model, images.loader, hf_vbp.VBPConfig(ratio=0.5))
        >>> result.plan.budget.achieved
        0.5
    """
    check_request(model, config)
    with own_precision(model):
        if statistics is None:
            options = {"progress": progress, "provenance": provenance, **config.needs(model)}
            statistics = collect_statistics(model, dataloader, max_images=max_images, **options)
        rankings = gradient_rankings(model, statistics, config, dataloader, max_images=max_images)
        plan = plan_for(model, statistics, config, rankings=rankings)
        base_model, dense_cost = describe_base_model(model), describe_cost(model)
        pruned = apply_plan(model, plan, statistics, inplace=inplace)
        results = {
            "schema_version": SCHEMA_VERSION,
            "base_model": base_model,
            **_describe_pruning(statistics, plan, provenance),
            "cost": {"dense": dense_cost, "pruned": describe_cost(pruned)},
            "versions": versions(),
        }
    return PruningResult(pruned, plan, statistics, results)


def _describe_pruning(
    statistics: "ActivationStatistics", plan: PruningPlan, provenance: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "data": {"calibration": describe_calibration(statistics, provenance)},
        "statistics": describe_statistics(statistics),
        "plan": describe_plan(plan),
        "predicted": dict(plan.predicted),
    }


def gradient_rankings(
    model: nn.Module,
    statistics: "ActivationStatistics",
    config: VBPConfig,
    dataloader: Iterable[Any],
    *,
    max_images: int | None = None,
) -> list[Ranking] | None:
    """Return the rankings of a criterion that needs a pass of its own over the images (``snip``), else ``None``."""
    if config.criterion != "snip":
        return None
    from hf_vbp.saliency import collect_saliency

    saliency = collect_saliency(model, dataloader, max_images=max_images)
    return rank_sites(model, statistics, config.criterion, saliency=saliency, **config.criterion_options)


def plan_for(
    model: nn.Module,
    statistics: "ActivationStatistics",
    config: VBPConfig,
    *,
    rankings: Sequence[Ranking] | None = None,
) -> PruningPlan:
    """Make the plan that a configuration asks for; see :func:`hf_vbp.make_plan`.

    Args:
        model: The dense model.
        statistics: What was gathered on it.
        config: What to remove and how.
        rankings: What :func:`hf_vbp.planning.rank_sites` returned, where several plans are made.
    """
    return make_plan(
        model,
        statistics,
        config.budget,
        criterion=config.criterion,
        compensation=config.compensation,
        scope=config.scope,
        limits=config.limits,
        latency_of=latency_of_widths(model) if config.target_latency is not None else None,
        criterion_options=config.criterion_options,
        compensation_options=config.compensation_options,
        rankings=rankings,
    )


def describe_calibration(statistics: "ActivationStatistics", provenance: dict[str, Any] | None) -> dict[str, Any]:
    """Return the ``data.calibration`` part of the results."""
    return {
        "source": "unnamed batches",
        **(provenance or {}),
        "images": statistics.images,
        "tokens": statistics.tokens,
    }


def describe_statistics(statistics: "ActivationStatistics") -> dict[str, Any]:
    """Return the ``statistics`` part of the results: their depth, and whether half of the images would have done."""
    agreement = halves_agreement(statistics)
    described: dict[str, Any] = {
        "moments": statistics.fingerprints["moments"],
        "dtype": statistics.fingerprints["dtype"],
    }
    if agreement is not None:
        described["halves"] = agreement.to_dict()
    return described
