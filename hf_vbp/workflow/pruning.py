"""The one verb: a model and images in, a smaller model, its plan and its figures out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hf_vbp.adapters.prunable import check_finite_weights
from hf_vbp.adapters.registry import find_sites
from hf_vbp.adapters.structure import check_structure
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.costs.latency import latency_of_widths
from hf_vbp.criteria.base import Ranking
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.make_plan import check_bias, make_plan, rank_sites
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.record import SCHEMA_VERSION, describe_base_model, describe_plan, versions
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.statistics.split_halves import halves_agreement

Progress = Callable[[int, int | None], None]


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
    if statistics is None:
        statistics = collect_statistics(
            model, dataloader, max_images=max_images, progress=progress, provenance=provenance, **config.needs(model)
        )
    rankings = gradient_rankings(model, statistics, config, dataloader, max_images=max_images)
    plan = plan_for(model, statistics, config, rankings=rankings)
    base_model, dense_cost = describe_base_model(model), describe_cost(model)
    pruned = apply_plan(model, plan, statistics, inplace=inplace)
    results = {
        "schema_version": SCHEMA_VERSION,
        "base_model": base_model,
        "data": {"calibration": describe_calibration(statistics, provenance)},
        "statistics": describe_statistics(statistics),
        "plan": describe_plan(plan),
        "predicted": dict(plan.predicted),
        "cost": {"dense": dense_cost, "pruned": describe_cost(pruned)},
        "versions": versions(),
    }
    return PruningResult(pruned, plan, statistics, results)


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
    from hf_vbp.calibration.saliency import collect_saliency

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
        rankings: What :func:`hf_vbp.pruning.make_plan.rank_sites` returned, where several plans are made.
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
