"""The main job: a checkpoint and images in; a pruned checkpoint with its figures out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.distributed import is_main_process
from hf_vbp.errors import CheckpointError, DataError
from hf_vbp.files.atomic import check_space
from hf_vbp.results.record import describe_base_model
from hf_vbp.workflow.gather import gather, with_skipped
from hf_vbp.workflow.loading import LoadedModel, load_model, without_progress_bars
from hf_vbp.workflow.outputs import input_sources, output_folder
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.adapters.prepared import PreparedModel
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.workflow.pruning_result import PruningResult


@dataclass(frozen=True)
class PruneRequest:
    """Everything that ``hf-vbp prune`` takes.

    Attributes:
        model: Hub id, folder or ``sample``.
        config: What to remove and how.
        output: Folder of the pruned checkpoint.
        data: Calibration images; not needed with ``statistics``.
        evaluation: Labelled images; without them nothing is evaluated.
        statistics: File of statistics gathered before.
        revision: Revision of the model.
        dtype: What to load it in.
        device: Where to compute.
        overwrite: Whether to replace ``output``.
        latency: Whether to measure the latency of both models.
        command: What reproduces this run, for the results.
    """

    model: str
    config: "VBPConfig"
    output: Path
    data: DataRequest | None = None
    evaluation: DataRequest | None = None
    statistics: Path | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    overwrite: bool = False
    latency: bool = False
    command: str = ""


def run_prune(request: PruneRequest, reporter: Reporter) -> dict[str, Any]:
    """Prune a checkpoint and write the result.

    Args:
        request: What to do.
        reporter: Who is told how it goes.

    Returns:
        The results, as ``vbp_results.json`` holds them; empty in the processes that only helped to gather.

    Raises:
        HfVbpError: Anything that cannot be done, before any expensive work where that can be known.
    """
    if request.data is None and request.statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation, statistics=request.statistics
    )
    with output_folder(request.output, request.overwrite, inputs, leads=is_main_process()) as folder:
        return _prune_and_save(request, reporter, folder)


def _prune_and_save(request: PruneRequest, reporter: Reporter, folder: Path) -> dict[str, Any]:
    from hf_vbp.workflow.prune import check_request, prune
    from hf_vbp.workflow.pruning_result import with_receipt
    from hf_vbp.workflow.saving import save_checkpoint

    reporter.say(f"Loading {request.model}")
    loaded = load_model(request.model, revision=request.revision, dtype=request.dtype, device=request.device)
    prepared = check_request(loaded.model, request.config)
    place = folder if folder.is_dir() else folder.parent
    check_space(request.output, place, expected_bytes(prepared, request.config), CheckpointError)
    evaluation = request.evaluation.open(loaded, "evaluation") if request.evaluation else None
    statistics = gather(prepared, loaded, request.config, reporter, data=request.data, statistics=request.statistics)
    if not is_main_process():
        # The processes share the pass over the images; what follows is the work of one.
        return {}
    result = prune(prepared, None, request.config, statistics=statistics)
    results = result.results
    results["base_model"] = describe_base_model(loaded.model, loaded.source)
    if evaluation is not None:
        measured, results["observed"] = evaluate_both(loaded, result, evaluation, reporter)
        results["data"]["evaluation"] = {**with_skipped(evaluation, reporter), "images": measured["dense"]["images"]}
        results["evaluation"] = measured
    if request.latency:
        results["latency"] = measure_both(loaded, result, reporter)
    if request.command:
        results["command"] = request.command
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
