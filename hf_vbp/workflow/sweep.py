"""Accuracy against the share of removed neurons or of MACs, from one pass over the calibration images."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import Batch, PreparedModel, prepare_sites
from hf_vbp.calibration.collect import collect_statistics, requirements_for
from hf_vbp.calibration.source import Source
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.costs.latency import LatencyOptions, measure_latency
from hf_vbp.costs.part import counted_part
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import DataError, LatencyError
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.evaluation.requests import Measures
from hf_vbp.evaluation.task import example_task
from hf_vbp.inputs.fit import check_first_image
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.levers import LeverWarning
from hf_vbp.pruning.make_plan import fit_plan, rank_sites
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.pruning.refit import check_refit
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.evaluate import check_evaluation, with_first_batch, with_labelled_bank
from hf_vbp.workflow.measure_levers import with_lever_measurements
from hf_vbp.workflow.prune import complete_statistics
from hf_vbp.workflow.sweep_front import mark_fronts
from hf_vbp.workflow.sweep_tasks import Row, check_images, describe_method, reachable_tasks, sweep_tasks

MODELS_IN_MEMORY = 4
"""Pruned models that are evaluated together in one pass over the evaluation images."""


def sweep(
    model: nn.Module | PreparedModel,
    data: Iterable[Any] | Source | None = None,
    config: VBPConfig | Sequence[VBPConfig] | None = None,
    *,
    ratios: Sequence[float] | None = None,
    macs: Sequence[float] | None = None,
    levers: Sequence[str] | None = None,
    eval_data: Iterable[Mapping[str, Any]],
    measures: Measures | None = None,
    statistics: ActivationStatistics | None = None,
    latency: LatencyOptions | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Prune at several ratios or shares of MACs from one pass of statistics, and evaluate all on the same images.

    The calibration images are read once and the neurons are ranked once per method. Where a normalization inside the
    MLPs mixes their neurons, the images are read once more for each model, as by :func:`hf_vbp.prune`. At most four
    pruned models are in memory at a time; the evaluation images are read once for each group of four.

    Args:
        model: The dense model, with any output that :func:`hf_vbp.evaluate` measures; it is not changed.
        data: Calibration images, as for :func:`hf_vbp.prune`. Not needed with ``statistics``.
        config: The method, or several; their budgets are not used. By default ``VBPConfig()``.
        ratios: Shares of hidden neurons to remove, in (0, 1).
        macs: In place of ``ratios``: shares of the MACs to keep, in (0, 1).
        levers: Compare these levers (``"mlp"``, ``"tokens"``), each alone and all together, at each share of
            ``macs``, by default 0.9 to 0.5. The number of merged tokens is chosen on ``data``. A share that a lever
            cannot reach is left out with a warning.
        eval_data: Images to evaluate on, with labels where the model has classes: the result of
            :func:`hf_vbp.load_images`, a ``DataLoader``, or any iterable of dicts that can be read more than once.
        measures: What is measured in addition, as for :func:`hf_vbp.prune`; the bank is read once for each group.
        statistics: Statistics gathered earlier from this model.
        latency: Conditions under which the latency of each model is measured; by default it is not. Where the machine
            is too noisy, a warning is issued and the rows lack it.
        limit: Stop gathering after this many images.
        progress: Receives the number of finished images and, where it is known, of all: first for the calibration
            images, then for the evaluation images, which count once for each time they are read.

    Returns:
        A row for the dense model with ratio 0, then one row per method and ratio: ``ratio``, ``criterion``,
        ``compensation``, ``scope``, ``parameters``, ``macs``, ``bytes`` and the figures of
        :class:`hf_vbp.evaluation.models.Evaluation`, against the dense model. With ``latency`` also ``latency_ms``,
        ``speedup``, ``speedup_interval`` and the conditions. Rows of shares of MACs have ``target_macs``, ``levers``
        and ``merged_tokens``, the number before each block, in addition, and ``ratio`` is the share of neurons that
        was removed; ``on_macs_front`` and ``on_latency_front`` mark the models of which none is as cheap and as
        accurate or better. Models are compared by top-1, without labels by agreement, and those without classes by
        k nearest neighbors or class-name prompts, or else by the output distance.

    Raises:
        ConfigurationError: There are no points, or ``config``, a lever or ``measures`` does not fit the model.
        DataError: Neither ``data`` nor ``statistics`` was given, there are no images to evaluate on, or none to choose
            merged tokens on.
        UnsupportedModelError: The model cannot be pruned as it is, or nothing of its output can be measured.
        LabelError: Labels have another form than the output needs.
        BudgetError: A share is not between 0 and 1. Pruning the MLPs cannot remove as large a share as one of
            ``ratios``, or no lever can reach any of ``macs``.
        StatisticsError: The images give no usable statistics, or ``statistics`` belong to another model.

    Example:
        >>> import hf_vbp
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> images = hf_vbp.load_images("sample", model=model)
        >>> labelled = hf_vbp.load_images("sample", model=model, purpose="evaluation")
        >>> rows = hf_vbp.sweep(model, images, ratios=[0.25, 0.5], eval_data=labelled)
        >>> [row["ratio"] for row in rows]
        [0.0, 0.25, 0.5]
    """
    methods = [config or VBPConfig()] if config is None or isinstance(config, VBPConfig) else list(config)
    tasks = sweep_tasks(methods, ratios, macs=macs, levers=levers)
    measures = measures or Measures()
    loader = getattr(eval_data, "loader", eval_data)
    _check_read_again(eval_data=loader, bank=getattr(measures.bank, "loader", measures.bank), tasks=len(tasks))
    source = None if data is None else Source.of(data)
    prepared = check_sweep(model, tasks, None if source is None else source.first)
    tasks = reachable_tasks(prepared, tasks, lambda reason: warnings.warn(reason, LeverWarning, stacklevel=4))
    check_images(prepared, tasks, source, statistics)
    task = example_task(prepared.model)
    measures = with_labelled_bank(measures, task, data, eval_data)
    check_evaluation(prepared.model, eval_data, measures, task=task)
    check_first_image(prepared.model, loader)
    check_refit(prepared, source, len(tasks) + (statistics is None))
    prepared.verified()
    if statistics is None and data is not None:
        measures = with_first_batch(measures, prepared.model, loader, data=data, task=task)
    gathered = sweep_statistics(prepared, methods, source, statistics, limit=limit, progress=progress)
    if statistics is not None:
        measures = with_first_batch(measures, prepared.model, loader, data=data, task=task)
    rows: list[Row] = []
    options: dict[str, Any] = {"data": source, "limit": limit, "latency": latency, "progress": progress}
    made = sweep_rows(prepared, gathered, tasks, loader, measures=measures, **options)
    for group in made:
        # The dense model is evaluated in each group.
        rows += group[1:] if rows else group
    if any("levers" in row for row in rows):
        mark_fronts(rows)
    return rows


def _check_read_again(*, eval_data: Any, bank: Any, tasks: int) -> None:
    for name, loader in (("eval_data", eval_data), ("The bank of measures", bank)):
        if isinstance(loader, Iterator) and tasks > MODELS_IN_MEMORY:
            raise DataError(
                f"{name} is read once for every {MODELS_IN_MEMORY} models, but an iterator can be read only once. "
                "Pass a list of batches, a DataLoader or the result of load_images."
            )


def check_sweep(model: nn.Module | PreparedModel, tasks: Sequence[VBPConfig], batch: Batch = None) -> PreparedModel:
    """Validate a model and all configurations before any image is read.

    Args:
        model: The model.
        tasks: The configurations.
        batch: The batch that will verify the sites, as for :func:`hf_vbp.adapters.prepare`.

    Raises:
        ConfigurationError: A compensation does not fit the model.
        UnsupportedModelError: The model cannot be pruned as it is.
    """
    prepared = prepare_sites(model, batch)
    for task in tasks:
        prepared.check_requirements(f"compensation {task.compensation!r}", task.make_compensation().requires)
    return prepared


def sweep_statistics(
    prepared: PreparedModel,
    methods: Sequence[VBPConfig],
    data: Iterable[Any] | Source | None,
    statistics: ActivationStatistics | None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Return statistics that serve all methods: those given, completed where that is possible, or new ones.

    Raises:
        DataError: Neither ``data`` nor ``statistics`` was given.
        StatisticsError: ``statistics`` lack data that a method needs, or belong to another model.
    """
    if statistics is not None:
        for method in methods:
            statistics = complete_statistics(prepared, statistics, method, data, limit=limit, progress=progress)
        return statistics
    if data is None:
        raise DataError("Nothing to calibrate on: pass data (images), or statistics gathered earlier.")
    requires = reduce(or_, (requirements_for(prepared, method) for method in methods), Requirements())
    return collect_statistics(prepared, data, requires, limit=limit, progress=progress)


def sweep_rows(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    tasks: Sequence[VBPConfig],
    loader: Iterable[Mapping[str, Any]],
    *,
    measures: Measures | None = None,
    data: Source | None = None,
    limit: int | None = None,
    latency: LatencyOptions | None = None,
    progress: Progress | None = None,
    on_noise: Callable[[LatencyError], None] = lambda error: warnings.warn(str(error), stacklevel=2),
    on_measured: Callable[[ActivationStatistics], None] = lambda statistics: None,
) -> Iterator[list[Row]]:
    """Yield the rows of each group of models, with the row of the dense model first.

    Args:
        prepared: The dense model.
        statistics: Statistics that serve all tasks.
        tasks: The configurations.
        loader: Batches to evaluate on.
        measures: What is measured in addition.
        data: Calibration images, on which merged tokens are chosen, and which are read once for each task where the
            neurons of an MLP are mixed.
        limit: Stop such a pass after this many images.
        latency: Conditions of the latency; None measures none.
        progress: Receives the number of evaluated images in all groups.
        on_noise: Receives the error where a latency cannot be measured.
        on_measured: Receives the statistics with what was measured of merged tokens, before a group is evaluated.
    """
    rankings: dict[str, list[Ranking]] = {}
    groups = [tasks[start : start + MODELS_IN_MEMORY] for start in range(0, len(tasks), MODELS_IN_MEMORY)]
    for index, group in enumerate(groups):
        models: dict[str, Any] = {"dense": prepared.model}
        described: list[Row] = [{"ratio": 0.0}]
        for number, task in enumerate(group):
            key = repr((task.criterion, task.criterion_options))
            if key not in rankings:
                rankings[key] = rank_sites(prepared, statistics, task)
            measured = with_lever_measurements(prepared, statistics, task, data, rankings=rankings[key], limit=limit)
            statistics, earlier, warns = measured
            fitted = fit_plan(prepared, statistics, task, rankings=rankings[key], fitted=earlier, warns=warns)
            models[str(number)] = apply_fitted(prepared, fitted, data=data, limit=limit)
            described.append({**_of_plan(fitted.plan), **describe_method(task)})
        on_measured(statistics)
        report = _of_all(progress, index, len(groups))
        found = evaluate_models(models, loader, reference="dense", measures=measures, progress=report)
        part = counted_part(prepared.model, prepared.sites)
        timed = {} if latency is None else _latency_columns(models, prepared.inputs, latency, on_noise)
        yield [
            {**method, **describe_cost(pruned, prepared.inputs, part), **found[name].to_dict(), **timed.get(name, {})}
            for method, (name, pruned) in zip(described, models.items(), strict=True)
        ]


def _of_plan(plan: PruningPlan) -> Row:
    """Return the columns that only the plan of a share of MACs decides."""
    if plan.config.target_macs is None:
        return {}
    return {"ratio": plan.ratio, "merged_tokens": max(plan.merged_tokens, default=0)}


def _latency_columns(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Any] | None,
    options: LatencyOptions,
    on_noise: Callable[[LatencyError], None],
) -> dict[str, Row]:
    try:
        rows = measure_latency(models, options, inputs=inputs)
    except LatencyError as error:
        # The other figures of the rows are not lost with it.
        on_noise(error)
        return {}
    columns: dict[str, Row] = {}
    for row in rows:
        speed: Row = {key: row[key] for key in ("speedup", "speedup_interval") if key in row}
        conditions = {f"latency_{key}": row[key] for key in ("batch", "dtype", "threads", "device_name")}
        if row.get("compiled"):
            conditions["latency_compiled"] = True
        columns[str(row["model"])] = {"latency_ms": row["median_ms"], **speed, **conditions}
    return columns


def _of_all(progress: Progress | None, index: int, passes: int) -> Progress | None:
    """Return a receiver of the progress of pass ``index`` that reports the progress of all passes."""
    if progress is None:
        return None

    def report(done: int, total: int | None) -> None:
        if total is None:
            progress(done, None)
        else:
            progress(index * total + done, passes * total)

    return report
