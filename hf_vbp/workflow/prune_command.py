"""The main job: a checkpoint and images in; a pruned checkpoint with its figures out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, cpu_threads
from hf_vbp.distributed import is_launched, is_main_process
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, PlanError
from hf_vbp.files.atomic import check_space
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.latency_search import check_latency
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.record import describe_base_model
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.evaluate import check_classifier, evaluate
from hf_vbp.workflow.gather import gather, with_skipped
from hf_vbp.workflow.loading import LoadedModel, load_model, without_progress_bars
from hf_vbp.workflow.measure import measure_both
from hf_vbp.workflow.outputs import input_sources, output_folder
from hf_vbp.workflow.prune import check_request, prune
from hf_vbp.workflow.pruning_result import PruningResult, with_receipt
from hf_vbp.workflow.requests import DataRequest, Reporter
from hf_vbp.workflow.saving import save_checkpoint


@dataclass(frozen=True)
class PruneRequest:
    """Parameters of ``hf-vbp prune``.

    Attributes:
        model: Hub id, folder or ``sample``.
        config: What to remove and how; None with ``plan``.
        output: Folder of the pruned checkpoint.
        data: Calibration images; not needed with ``statistics``.
        evaluation: Labelled images; without them nothing is evaluated.
        statistics: File of statistics gathered before.
        plan: File of a plan made before from the same statistics.
        revision: Revision of the model.
        dtype: What to load it in.
        device: Where to compute.
        overwrite: Whether to replace ``output``.
        latency: Conditions under which to measure the latency of both models; None measures nothing.
        threads: Threads of the CPU while a latency budget is measured; None changes nothing.
        command: What reproduces this run, for the results.
    """

    model: str
    config: VBPConfig | None
    output: Path
    data: DataRequest | None = None
    evaluation: DataRequest | None = None
    statistics: Path | None = None
    plan: Path | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    overwrite: bool = False
    latency: Sequence[LatencyOptions] | None = None
    threads: int | None = None
    command: str = ""


def run_prune(request: PruneRequest, reporter: Reporter) -> dict[str, Any]:
    """Prune a checkpoint and write the result.

    Args:
        request: The parameters of the job.
        reporter: Receives progress updates.

    Returns:
        The results, as ``vbp_results.json`` holds them; empty in the processes that only helped to gather.

    Raises:
        HfVbpError: The request cannot be carried out; before any expensive work where that can be known.
    """
    if request.data is None and request.statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation, statistics=request.statistics
    ) | {"the plan": request.plan}
    with output_folder(request.output, request.overwrite, inputs, leads=is_main_process()) as folder:
        return _prune_and_save(request, reporter, folder)


def _prune_and_save(request: PruneRequest, reporter: Reporter, folder: Path) -> dict[str, Any]:
    plan = None if request.plan is None else PruningPlan.load(request.plan)
    config = _config_of(request, plan)
    reporter.say(f"Loading {request.model}")
    loaded = load_model(request.model, revision=request.revision, dtype=request.dtype, device=request.device)
    prepared = _check(loaded, config, plan, request, reporter)
    place = folder if folder.is_dir() else folder.parent
    check_space(request.output, place, expected_bytes(prepared, config), CheckpointError)
    evaluation = request.evaluation.open(loaded, "evaluation") if request.evaluation else None
    statistics = gather(prepared, loaded, config, reporter, data=request.data, statistics=request.statistics)
    if not is_main_process():
        # The processes share the pass over the images; what follows is the work of one.
        return {}
    result = _pruned(prepared, config, plan, statistics, reporter, request.threads)
    if evaluation is not None:
        with reporter.stage("Evaluation", evaluation.images) as progress:
            result = evaluate(result, evaluation, progress=progress)
        with_skipped(evaluation, reporter)
    results = result.results
    results["base_model"] = describe_base_model(loaded.model, loaded.source)
    if request.latency is not None:
        results["latency"] = measure_both(loaded.model, result.model, request.latency, reporter)
    if request.command:
        results["command"] = request.command
    reporter.say(f"Writing {request.output}, and reopening it in a fresh process")
    with without_progress_bars():
        receipt = save_checkpoint(result, request.output, processor=loaded.processor, overwrite=request.overwrite)
    return with_receipt(results, receipt)


def _config_of(request: PruneRequest, plan: PruningPlan | None) -> VBPConfig:
    """Return the configuration that was given, or that of the plan."""
    given = [config for config in (request.config, None if plan is None else plan.config) if config is not None]
    if len(given) != 1:
        raise ConfigurationError("Give either a budget, or --plan with a plan from `hf-vbp plan`.")
    return given[0]


def _check(
    loaded: LoadedModel, config: VBPConfig, plan: PruningPlan | None, request: PruneRequest, reporter: Reporter
) -> PreparedModel:
    """Check everything that can be known before the pass over the images."""
    prepared = check_request(loaded.model, config)
    if plan is not None:
        plan.check_model(prepared.fingerprint, [(site.name, site.intermediate_size) for site in prepared.sites])
    elif config.budget.kind == "latency" and request.statistics is None and not is_launched():
        stage = reporter.stage(f"Latency at minimum widths, batch {config.latency_batch}")
        with stage as progress, cpu_threads(request.threads):
            check_latency(prepared, config, progress)
    if request.evaluation is not None:
        check_classifier(loaded.model)
    return prepared


def _pruned(
    prepared: PreparedModel,
    config: VBPConfig,
    plan: PruningPlan | None,
    statistics: ActivationStatistics,
    reporter: Reporter,
    threads: int | None,
) -> PruningResult:
    if plan is not None:
        digest = statistics_digest(statistics)
        if digest != plan.statistics:
            raise PlanError(
                f"The plan was made from other statistics ({plan.statistics[:12]}, these are {digest[:12]}). Pass the "
                "file that the plan was made from with --statistics, or make a new plan."
            )
        pruned = apply_plan(prepared.model, plan, statistics)
        return PruningResult.from_parts(prepared.model, pruned, plan, statistics)
    if config.budget.kind != "latency":
        return prune(prepared, None, config, statistics=statistics)
    stage = reporter.stage(f"Latency of candidates, batch {config.latency_batch}")
    with stage as progress, cpu_threads(threads):
        return prune(prepared, None, config, statistics=statistics, progress=progress)


def expected_bytes(prepared: PreparedModel, config: VBPConfig) -> int:
    """Return the approximate size of the pruned weights in bytes, at least that of everything outside the MLPs."""
    total = sum(tensor.nbytes for tensor in prepared.model.state_dict().values())
    if config.target_parameters is not None:
        return int(total * config.target_parameters)
    removed = 1.0 if config.ratio is None else config.ratio
    mlps = sum(module.weight.nbytes for site in prepared.sites for module in (site.fc1, site.fc2))
    return int(total - removed * mlps)
