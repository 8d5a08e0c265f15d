"""Prune a checkpoint by name and write the pruned checkpoint with its figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.processes import Processes
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, cpu_threads
from hf_vbp.data.class_names import name_classes
from hf_vbp.data.label_files import read_model_labels
from hf_vbp.distributed import is_launched, is_main_process
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, PlanError
from hf_vbp.evaluation.task import Task, example_task
from hf_vbp.files.atomic import check_space
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.latency_search import check_latency
from hf_vbp.pruning.levers import most_merged_tokens
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.pruning.plan_agreement import check_plan_of_model
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.redaction import redacted_command
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.evaluate import evaluate
from hf_vbp.workflow.evaluation_images import (
    EvaluationRequest,
    check_evaluation_request,
    check_has_classes,
    open_evaluation,
)
from hf_vbp.workflow.gather import gather, with_skipped
from hf_vbp.workflow.kept_measurements import keep_measurements, lever_warnings
from hf_vbp.workflow.loading import LoadedModel, Loading, without_progress_bars
from hf_vbp.workflow.measure import measure_all
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
        data: Calibration images; with ``statistics`` they are read only for statistics that the file lacks, and to
            refit MLPs whose neurons a normalization mixes.
        evaluation: Images, labelled where the model has classes; without them nothing is evaluated.
        bank: For backbones: labelled images among which neighbors are sought; by default ``data``, where it has
            labels.
        neighbors: Number of neighbors that vote; None for the default.
        statistics: File of statistics gathered earlier. With ``data``, what is measured of merged tokens is written
            into it.
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
    bank: DataRequest | None = None
    neighbors: int | None = None
    statistics: Path | None = None
    loading: Loading = field(default_factory=Loading)
    overwrite: bool = False
    latency: Sequence[LatencyOptions] | None = None
    threads: int | None = None
    command: str = ""

    @property
    def model_labels(self) -> str | None:
        """File with the class names of the model."""
        given = (images.model_labels for images in (self.evaluation, self.data) if images is not None)
        return next((labels for labels in given if labels is not None), None)


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
    if request.bank is not None:
        inputs["the folder of the bank"] = request.bank.source
    opened = output_folder(request.output, request.overwrite, inputs, leads=is_main_process())
    with opened as folder, lever_warnings(reporter):
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
    wanted = _evaluation_of(request)
    task = None if wanted is None else check_evaluation_request(wanted, loaded, compared=True)
    _check_class_names(request, loaded)
    _check_before_the_pass(prepared, plan, config, request, reporter)
    evaluation = None
    if wanted is not None:
        evaluation, measures = open_evaluation(wanted, loaded, cast(Task, task), reporter)
    prepared.verified()
    if plan is None:
        statistics = gather(prepared, loaded, config, reporter, data=calibration, statistics=request.statistics)
    else:
        statistics = _statistics_of(plan, request)
    if not is_main_process():
        # The processes share the pass over the images; one does the rest.
        return {}
    # For the passes that measure merged tokens, and that refit the MLPs whose neurons a normalization mixes.
    source = None if calibration is None else Source(calibration.images, Processes.alone())
    result = _prune(prepared, plan, config, statistics, request, reporter, source)
    if request.statistics is not None and plan is None and source is not None:
        keep_measurements(request.statistics, result.statistics, reporter)
    if request.model_labels is not None and name_classes(result.model.config, request.model_labels):
        reporter.say(f"The config of the pruned model names its classes ({request.model_labels})")
    if evaluation is not None:
        with reporter.stage("Evaluation", evaluation.images) as progress:
            result = evaluate(result, evaluation, measures=measures, progress=progress)
        with_skipped(evaluation, reporter)
        if request.bank is not None:
            with_skipped(measures.bank, reporter)
    results = {**result.results, "base_model": describe_base_model(loaded.model, loaded.source)}
    if request.latency is not None:
        results = measure_all(prepared, result.model, results, request.latency, reporter)
    if request.command:
        results = {**results, "command": redacted_command(request.command)}
    result = replace(result, results=results)
    reporter.say(f"Writing {request.output}, and reopening it in a fresh process")
    with without_progress_bars():
        receipt = save_checkpoint(result, request.output, processor=loaded.processor, overwrite=request.overwrite)
    return with_receipt(results, receipt)


def _evaluation_of(request: PruneRequest) -> EvaluationRequest | None:
    if request.evaluation is not None:
        return EvaluationRequest(request.evaluation, request.bank, request.data, request.neighbors)
    if request.bank is not None or request.neighbors is not None:
        raise ConfigurationError("--bank and --neighbors need images to evaluate on: give --eval-data.")
    return None


def _check_class_names(request: PruneRequest, loaded: LoadedModel) -> None:
    if request.model_labels is None:
        return
    task = example_task(loaded.model)
    if task is not None:
        check_has_classes(loaded.source, task)
    read_model_labels(request.model_labels, len(loaded.model.config.id2label))


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
    if request.statistics is None:
        raise DataError(f"{request.plan} is applied with the statistics that it was made from: give --statistics.")
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
    """Refuse a plan of another model, and a latency that cannot be reached."""
    if plan is not None:
        check_plan_of_model(plan, prepared)
    elif config.budget.kind == "latency" and request.statistics is None and not is_launched():
        stage = reporter.stage(f"Latency at minimum widths, batch {config.latency_batch}")
        with stage as progress, cpu_threads(request.threads):
            check_latency(prepared, config, progress, merged_tokens=most_merged_tokens(prepared, config))


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
        pruned = apply_plan(prepared, plan, statistics, data=source)
        return PruningResult.from_parts(prepared, pruned, plan, statistics)
    if config.budget.kind != "latency":
        return prune(prepared, source, config, statistics=statistics)
    stage = reporter.stage(f"Latency of candidates, batch {config.latency_batch}")
    with stage as progress, cpu_threads(request.threads):
        return prune(prepared, source, config, statistics=statistics, progress=progress)
