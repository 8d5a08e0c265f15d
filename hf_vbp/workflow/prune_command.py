"""Prune a checkpoint by name and write the pruned checkpoint with its figures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hf_vbp.distributed import is_main_process
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, PlanError
from hf_vbp.files.atomic import check_space
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.redaction import redacted_command
from hf_vbp.workflow.gather import gather, with_skipped
from hf_vbp.workflow.loading import LoadedModel, Loading, without_progress_bars
from hf_vbp.workflow.outputs import input_sources, output_folder
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.adapters.prepared import PreparedModel
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.pruning.plan import PruningPlan
    from hf_vbp.statistics.activation_statistics import ActivationStatistics
    from hf_vbp.workflow.pruning_result import PruningResult


@dataclass(frozen=True)
class PruneRequest:
    """Arguments of ``hf-vbp prune``.

    Attributes:
        model: Hub id, folder or ``sample``.
        output: Folder of the pruned checkpoint.
        config: What to remove and how; ``None`` with ``plan``.
        plan: File of a plan to apply, in place of ``config``; needs the statistics that it was made from.
        data: Calibration images; with ``statistics`` they are read only for what the file lacks.
        evaluation: Labelled images; without them nothing is evaluated.
        statistics: File of statistics gathered earlier.
        loading: How the model is loaded.
        overwrite: Whether to replace ``output``.
        latency: Whether to measure the latency of both models.
        command: Command line that reproduces this run, for the results.
    """

    model: str
    output: Path
    config: "VBPConfig | None" = None
    plan: Path | None = None
    data: DataRequest | None = None
    evaluation: DataRequest | None = None
    statistics: Path | None = None
    loading: Loading = field(default_factory=Loading)
    overwrite: bool = False
    latency: bool = False
    command: str = ""


def run_prune(request: PruneRequest, reporter: Reporter) -> dict[str, Any]:
    """Prune a checkpoint and write the result.

    Args:
        request: What to do.
        reporter: Receives progress updates.

    Returns:
        The results, as ``vbp_results.json`` holds them; empty in all processes but the first.

    Raises:
        HfVbpError: Anything that cannot be done, before any expensive work where that can be known.
    """
    plan, config = _plan_and_config(request)
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation, statistics=request.statistics
    )
    with output_folder(request.output, request.overwrite, inputs, leads=is_main_process()) as folder:
        return _prune_and_save(request, plan, config, reporter, folder)


def _prune_and_save(
    request: PruneRequest, plan: "PruningPlan | None", config: "VBPConfig", reporter: Reporter, folder: Path
) -> dict[str, Any]:
    from hf_vbp.workflow.prune import check_request
    from hf_vbp.workflow.pruning_result import with_receipt
    from hf_vbp.workflow.saving import save_checkpoint

    reporter.say(f"Loading {request.model}")
    loaded = request.loading.load(request.model)
    prepared = check_request(loaded.model, config)
    place = folder if folder.is_dir() else folder.parent
    check_space(request.output, place, expected_bytes(prepared, config), CheckpointError)
    evaluation = request.evaluation.open(loaded, "evaluation") if request.evaluation else None
    if plan is None:
        statistics = gather(prepared, loaded, config, reporter, data=request.data, statistics=request.statistics)
    else:
        statistics = _statistics_of(plan, request)
    if not is_main_process():
        # The processes share the pass over the images; one does the rest.
        return {}
    result = _prune(prepared, plan, config, statistics)
    results = result.results
    results["base_model"] = describe_base_model(loaded.model, loaded.source)
    if evaluation is not None:
        measured, results["observed"] = evaluate_both(loaded, result, evaluation, reporter)
        results["data"]["evaluation"] = {**with_skipped(evaluation, reporter), "images": measured["dense"]["images"]}
        results["evaluation"] = measured
    if request.latency:
        results["latency"] = measure_both(loaded, result, reporter)
    if request.command:
        results["command"] = redacted_command(request.command)
    reporter.say(f"Writing {request.output}, and reopening it in a fresh process")
    with without_progress_bars():
        receipt = save_checkpoint(result, request.output, processor=loaded.processor, overwrite=request.overwrite)
    return with_receipt(results, receipt)


def expected_bytes(prepared: "PreparedModel", config: "VBPConfig") -> int:
    """Return the approximate size of the pruned weights in bytes, at least that of everything outside the MLPs."""
    total = sum(tensor.nbytes for tensor in prepared.model.state_dict().values())
    if config.target_parameters is not None:
        return int(total * config.target_parameters)
    removed = 1.0 if config.ratio is None else config.ratio
    mlps = sum(module.weight.nbytes for site in prepared.sites for module in (site.fc1, site.fc2))
    return int(total - removed * mlps)


def _plan_and_config(request: PruneRequest) -> "tuple[PruningPlan | None, VBPConfig]":
    from hf_vbp.pruning.plan import PruningPlan

    if (request.plan is None) == (request.config is None):
        raise ConfigurationError("Give either a budget with a method, or --plan, which holds both.")
    if request.plan is None:
        if request.data is None and request.statistics is None:
            raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
        return None, cast("VBPConfig", request.config)
    if request.statistics is None or request.data is not None:
        raise DataError(
            f"{request.plan} is applied with the statistics that it was made from: give --statistics, not --data."
        )
    plan = PruningPlan.load(request.plan)
    return plan, plan.config


def _statistics_of(plan: "PruningPlan", request: PruneRequest) -> "ActivationStatistics":
    from hf_vbp.pruning.make_plan import statistics_digest
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

    statistics = ActivationStatistics.load(cast(Path, request.statistics))
    if statistics_digest(statistics) != plan.statistics:
        raise PlanError(
            f"{request.plan} was made from other statistics than {request.statistics}. Give the file that it was made "
            "from, or make a new plan with `hf-vbp plan`."
        )
    return statistics


def _prune(
    prepared: "PreparedModel", plan: "PruningPlan | None", config: "VBPConfig", statistics: "ActivationStatistics"
) -> "PruningResult":
    from hf_vbp.costs.counts import describe_cost
    from hf_vbp.pruning.apply_plan import apply_plan
    from hf_vbp.workflow.prune import make_result, prune

    if plan is None:
        return prune(prepared, None, config, statistics=statistics)
    base_model, dense_cost = describe_base_model(prepared.model), describe_cost(prepared.model)
    pruned = apply_plan(prepared.model, plan, statistics)
    return make_result(pruned, plan, statistics, base_model=base_model, dense_cost=dense_cost)


def evaluate_both(
    loaded: LoadedModel, result: "PruningResult", images: Any, reporter: Reporter
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts ``evaluation`` and ``observed`` of the results: both models on the same images."""
    from hf_vbp.evaluation.models import evaluate_models
    from hf_vbp.evaluation.output_error import OutputErrors

    models = {"dense": loaded.model, "pruned": result.model}
    weighted = result.plan.predicted.get("metric") == "gradient"
    metrics = [site.metric if weighted else None for site in result.statistics.sites]
    observed = OutputErrors(loaded.model, result.model, metrics)
    with reporter.stage("Evaluation", images.images) as progress, observed:
        evaluations = evaluate_models(models, images.loader, reference="dense", progress=progress)
    measured: dict[str, Any] = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
    before, after = (measured[name].get("top1") for name in models)
    if before and after is not None:
        measured["retention"] = after / before
    return measured, observed.to_dict()


def measure_both(loaded: LoadedModel, result: "PruningResult", reporter: Reporter) -> list[dict[str, Any]]:
    """Return the ``latency`` part of the results: both models at batch 1 and 16 on their device."""
    from hf_vbp.costs.latency import measure_latency

    reporter.say("Measuring latency")
    rows = []
    for batch in (1, 16):
        for name, model in (("dense", loaded.model), ("pruned", result.model)):
            rows.append({"model": name, **measure_latency(model, batch=batch)})
    return rows
