"""``prune``: gather statistics, make a plan, apply it, and measure the result."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import Batch, PreparedModel, prepare_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.saliency import with_saliency
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.distributed import is_launched
from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import example_task
from hf_vbp.inputs.fit import check_first_image
from hf_vbp.modeling.precision import outside_inference_mode, own_precision
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.latency_search import check_latency
from hf_vbp.pruning.levers import check_levers, most_merged_tokens
from hf_vbp.pruning.make_plan import check_provided, fit_plan, rank_sites
from hf_vbp.pruning.refit import check_refit
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.describe import describe_dense, describe_pruning
from hf_vbp.workflow.evaluate import check_evaluation, evaluate, with_first_batch, with_labelled_bank
from hf_vbp.workflow.measure_levers import with_lever_measurements
from hf_vbp.workflow.pruning_result import PruningResult


@outside_inference_mode
def prune(
    model: nn.Module | PreparedModel,
    data: Iterable[Any] | Source | None = None,
    config: VBPConfig | None = None,
    *,
    statistics: ActivationStatistics | None = None,
    eval_data: Iterable[Mapping[str, Any]] | None = None,
    measures: Measures | None = None,
    inplace: bool = False,
    limit: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PruningResult:
    """Prune the MLPs of a vision transformer in one shot.

    The model computes in its own dtype, also inside autocast and after ``accelerator.prepare``.

    Args:
        model: A transformers ViT or DeiT, with any head, or a model of a registered family.
        data: Images without labels: the result of :func:`hf_vbp.load_images`, a ``DataLoader``, or any iterable of
            batches, dicts with ``pixel_values`` ``(batch, channels, height, width)``. Not needed with ``statistics``,
            unless the criterion needs a separate pass that they do not contain (``snip``). The first image also
            verifies the structure of the model, and is the one whose MACs and latency are reported.
        config: Method and budget.
        statistics: Statistics gathered earlier from this model.
        eval_data: Images to evaluate both models on afterwards, as for :func:`hf_vbp.evaluate`, with labels where the
            model has classes.
        measures: What is measured in addition, as for :func:`hf_vbp.evaluate`. For backbones, labelled calibration
            images are the bank of neighbors of labelled evaluation images, unless another one is given.
        inplace: Whether to change ``model`` itself instead of a copy.
        limit: Stop gathering after this many images.
        provenance: Describes the images, for the results file; by default the description of ``data``.
        progress: Receives the number of finished images and, where it is known, of all; for a latency budget also
            the number of finished repetitions of each measurement.

    Returns:
        The pruned model with its plan, statistics and figures.

    Raises:
        ConfigurationError: ``config`` is missing, has no budget, or does not fit the model.
        UnsupportedModelError: The model cannot be pruned as it is.
        BudgetError: Pruning the MLPs cannot meet the budget.
        LatencyError: The times on this machine vary too much for a latency budget.
        DataError: Neither ``data`` nor ``statistics`` was given, or there are no images.
        StatisticsError: The images give no usable statistics, or ``statistics`` belong to another model.

    Example:
        >>> import hf_vbp
        >>> from transformers import AutoModelForImageClassification
        >>> model = AutoModelForImageClassification.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", split="calibration", model=model)
        >>> result = hf_vbp.prune(model, images, hf_vbp.VBPConfig(ratio=0.5))
        >>> result.plan.achieved
        0.5
    """
    if config is None:
        raise ConfigurationError("prune needs a configuration with a budget, for instance VBPConfig(ratio=0.5).")
    if eval_data is not None and inplace:
        raise ConfigurationError("eval_data needs the dense model too, so it cannot be used with inplace=True.")
    if measures is not None and eval_data is None:
        raise ConfigurationError("measures needs images to evaluate on: pass eval_data.")
    measures = measures or Measures()
    source = None if data is None else Source.of(data)
    prepared = check_request(model, config, None if source is None else source.first)
    if eval_data is not None:
        task = example_task(prepared.model)
        measures = with_labelled_bank(measures, task, data, eval_data)
        check_evaluation(prepared.model, eval_data, measures, task=task)
        check_first_image(prepared.model, eval_data)
    check_refit(prepared, source, 2 if statistics is None else 1)
    prepared.verified()
    with own_precision(prepared.model):
        if statistics is None:
            if source is None:
                raise DataError("Nothing to calibrate on: pass data (images), or statistics gathered earlier.")
            if not is_launched():
                # Several processes at the same time would only slow each other down.
                check_latency(prepared, config, progress, merged_tokens=most_merged_tokens(prepared, config))
            if eval_data is not None:
                measures = with_first_batch(measures, prepared.model, eval_data, data=data, task=task)
            options: dict[str, Any] = {"limit": limit, "progress": progress, "provenance": provenance}
            statistics = collect_statistics(prepared, source, config, **options)
        else:
            statistics = complete_statistics(prepared, statistics, config, source, limit=limit, progress=progress)
            if eval_data is not None:
                measures = with_first_batch(measures, prepared.model, eval_data, data=data, task=task)
        rankings = rank_sites(prepared, statistics, config)
        measured = with_lever_measurements(
            prepared, statistics, config, source, rankings=rankings, limit=limit, progress=progress
        )
        statistics, earlier, warns = measured
        fitted = fit_plan(
            prepared, statistics, config, rankings=rankings, fitted=earlier, warns=warns, progress=progress
        )
        dense = describe_dense(prepared)
        pruned = apply_fitted(prepared, fitted, inplace=inplace, data=source, limit=limit)
        results = describe_pruning(dense, pruned, fitted.plan, statistics, prepared.inputs)
        kept = None if inplace else prepared.model
        result = PruningResult(pruned, fitted.plan, statistics, results, kept, prepared.inputs)
        if eval_data is None:
            return result
        return evaluate(result, eval_data, measures=measures, progress=progress)


def check_request(model: nn.Module | PreparedModel, config: VBPConfig, batch: Batch = None) -> PreparedModel:
    """Validate a model and a configuration before any expensive work.

    Args:
        model: The model.
        config: The configuration.
        batch: The batch that will verify the sites, as for :func:`hf_vbp.adapters.prepare`.

    Returns:
        The model with its sites, which every later step accepts in place of the model. The sites are verified where a
        check needs a forward pass, otherwise when they are first needed.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter.
        NonFiniteError: The weights hold NaN or infinity.
        ConfigurationError: The configuration has no budget, or its compensation does not fit the model.
        BudgetError: Pruning the MLPs cannot meet the budget. A latency budget is not checked here.
    """
    _ = config.budget
    prepared = prepare_sites(model, batch)
    prepared.check_requirements(f"criterion {config.criterion!r}", config.make_criterion().requires)
    prepared.check_requirements(f"compensation {config.compensation!r}", config.make_compensation().requires)
    check_levers(prepared, config)
    return prepared


def complete_statistics(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    config: VBPConfig,
    data: Iterable[Any] | Source | None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Return statistics that hold everything a configuration needs, after another pass over the images if necessary.

    Only statistics from a separate pass are added (the saliency of ``snip``). Other missing statistics are an error,
    because they must be gathered together with those given.

    Args:
        prepared: The model that the statistics must belong to.
        statistics: Statistics gathered earlier.
        config: The configuration that will be planned.
        data: Images for the additional pass; not read when nothing is missing.
        limit: Stop the additional pass after this many images.
        progress: Receives the number of finished images and, where it is known, of all.

    Raises:
        StatisticsMismatchError: The statistics belong to another model.
        StatisticsError: They lack statistics that the configuration needs, and no pass over ``data`` can add them.
    """
    statistics.check_model(prepared)
    adds_saliency = config.requires.saliency and not statistics.provides.saliency and data is not None
    for kind, method in (("criterion", config.make_criterion()), ("compensation", config.make_compensation())):
        needed = replace(method.requires, saliency=method.requires.saliency and not adds_saliency)
        check_provided(statistics, needed, f"{kind} {method.name!r}")
    if data is not None and adds_saliency:
        statistics = with_saliency(prepared, statistics, data, limit=limit, progress=progress)
    return statistics
