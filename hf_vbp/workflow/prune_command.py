"""Prune a checkpoint by name and write the pruned checkpoint with its figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, cpu_threads
from hf_vbp.distributed import is_launched, is_main_process
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, PlanError
from hf_vbp.evaluation.models import check_classifier
from hf_vbp.files.atomic import check_space
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.latency_search import check_latency
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.redaction import redacted_command
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.evaluate import evaluate
from hf_vbp.workflow.gather import gather, with_skipped
from hf_vbp.workflow.loading import Loading, without_progress_bars
from hf_vbp.workflow.measure import measure_both
from hf_vbp.workflow.outputs import input_sources, output_folder
from hf_vbp.workflow.prune import check_request, prune
from hf_vbp.workflow.pruning_result import PruningResult, with_receipt
from hf_vbp.workflow.requests import CalibrationImages, DataRequest, Reporter
from hf_vbp.workflow.saving import save_checkpoint


@dataclass(frozen=True)
class PruneRequest:
    """Arguments of ``hf-vbp prune``.

    Attributes:
        model: Hub id, folder or ``sample``.
        output: Folder of the pruned checkpoint.
        config: Budget and method; ``None`` with ``plan``.
        plan: File of a plan to apply, in place of ``config``; needs the statistics that it was made from.
        data: Calibration images; with ``statistics`` they are read only for statistics that the file lacks.
        evaluation: Labelled images; without them nothing is evaluated.
        statistics: File of statistics gathered earlier.
        loading: How the model is loaded.
        overwrite: Whether to replace ``output``.
        latency: Conditions under which to measure the latency of both models; None measures nothing.
        threads: Threads of the CPU while a latency budget is measured; None changes nothing.
        command: Command line that reproduces this run, for the results.
    """

    model: str
    output: Path
    config: VBPConfig | None = None
    plan: Path | None = None
    data: DataRequest | None = None
    evaluation: DataRequest | None = None
    statistics: Path | None = None
    loading: Loading = field(default_factory=Loading)
    overwrite: bool = False
    latency: Sequence[LatencyOptions] | None = None
    threads: int | None = None
    command: str = ""


def run_prune(request: PruneRequest, reporter: Reporter) -> dict[str, Any]:
    """Prune a checkpoint and write the result.

    Args:
        request: The request.
        reporter: Receives progress updates.

    Returns:
        The results, the content of ``vbp_results.json``; empty in all processes except the first.

    Raises:
        HfVbpError: Any failure, raised before expensive work where that is possible.
    """
    plan, config = _plan_and_config(request)
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation, statistics=request.statistics
    )
    with output_folder(request.output, request.overwrite, inputs, leads=is_main_process()) as folder:
        return _prune_and_save(request, plan, config, reporter, folder)


def _prune_and_save(
    request: PruneRequest, plan: PruningPlan | None, config: VBPConfig, reporter: Reporter, folder: Path
) -> dict[str, Any]:
    reporter.say(f"Loading {request.model}")
    loaded = request.loading.load(request.model)
    calibration = None if request.data is None else CalibrationImages(request.data, loaded)
    prepared = check_request(loaded.model, config, None if calibration is None else calibration.first)
    place = folder if folder.is_dir() else folder.parent
    check_space(request.output, place, expected_bytes(prepared, config), CheckpointError)
    _check_before_the_pass(prepared, plan, config, request, reporter)
    evaluation = request.evaluation.open(loaded, "evaluation") if request.evaluation else None
    prepared.verified()
    if plan is None:
        statistics = gather(prepared, loaded, config, reporter, data=calibration, statistics=request.statistics)
    else:
        statistics = _statistics_of(plan, request)
    if not is_main_process():
        # The processes share the pass over the images; one does the rest.
        return {}
    # For the second pass that refits the MLPs whose neurons a normalization mixes.
    source = None if calibration is None else Source(calibration.images, Processes.alone())
    result = _prune(prepared, plan, config, statistics, request, reporter, source)
    if evaluation is not None:
        with reporter.stage("Evaluation", evaluation.images) as progress:
            result = evaluate(result, evaluation, progress=progress)
        with_skipped(evaluation, reporter)
    results = result.results
    results["base_model"] = describe_base_model(loaded.model, loaded.source)
    if request.latency is not None:
        results["latency"] = measure_both(prepared, result.model, request.latency, reporter)
    if request.command:
        results["command"] = redacted_command(request.command)
    reporter.say(f"Writing {request.output}, and reopening it in a fresh process")
    with without_progress_bars():
        receipt = save_checkpoint(result, request.output, processor=loaded.processor, overwrite=request.overwrite)
    return with_receipt(results, receipt)


def expected_bytes(prepared: PreparedModel, config: VBPConfig) -> int:
    """Return the approximate size of the pruned weights in bytes, at least that of everything outside the MLPs."""
    total = sum(tensor.nbytes for tensor in prepared.model.state_dict().values())
    if config.target_parameters is not None:
        return int(total * config.target_parameters)
    removed = 1.0 if config.ratio is None else config.ratio
    mlps = sum(tensor.nbytes for site in prepared.sites for tensor in site.weights().values())
    return int(total - removed * mlps)


def _plan_and_config(request: PruneRequest) -> tuple[PruningPlan | None, VBPConfig]:
    if (request.plan is None) == (request.config is None):
        raise ConfigurationError("Give either a budget with a method, or --plan, which holds both.")
    if request.plan is None:
        if request.data is None and request.statistics is None:
            raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
        return None, cast(VBPConfig, request.config)
    if request.statistics is None or request.data is not None:
        raise DataError(
            f"{request.plan} is applied with the statistics that it was made from: give --statistics, not --data."
        )
    plan = PruningPlan.load(request.plan)
    return plan, plan.config


def _statistics_of(plan: PruningPlan, request: PruneRequest) -> ActivationStatistics:
    statistics = ActivationStatistics.load(cast(Path, request.statistics))
    if statistics_digest(statistics) != plan.statistics:
        raise PlanError(
            f"{request.plan} was made from other statistics than {request.statistics}. Give the file that it was made "
            "from, or make a new plan with `hf-vbp plan`."
        )
    return statistics


def _check_before_the_pass(
    prepared: PreparedModel, plan: PruningPlan | None, config: VBPConfig, request: PruneRequest, reporter: Reporter
) -> None:
    """Refuse a plan of another model, a latency that cannot be reached and models that cannot be evaluated."""
    if plan is not None:
        plan.check_model(prepared.fingerprint, [(site.name, site.intermediate_size) for site in prepared.sites])
    elif config.budget.kind == "latency" and request.statistics is None and not is_launched():
        stage = reporter.stage(f"Latency at minimum widths, batch {config.latency_batch}")
        with stage as progress, cpu_threads(request.threads):
            check_latency(prepared, config, progress)
    if request.evaluation is not None:
        check_classifier(prepared.model)


def _prune(
    prepared: PreparedModel,
    plan: PruningPlan | None,
    config: VBPConfig,
    statistics: ActivationStatistics,
    request: PruneRequest,
    reporter: Reporter,
    source: Source | None,
) -> PruningResult:
    if plan is not None:
        pruned = apply_plan(prepared, plan, statistics)
        return PruningResult.from_parts(prepared, pruned, plan, statistics)
    if config.budget.kind != "latency":
        return prune(prepared, source, config, statistics=statistics)
    stage = reporter.stage(f"Latency of candidates, batch {config.latency_batch}")
    with stage as progress, cpu_threads(request.threads):
        return prune(prepared, source, config, statistics=statistics, progress=progress)
