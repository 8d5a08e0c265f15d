"""Gather statistics into a file, and make plans from such a file."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.distributed import is_main_process
from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.gather import check_statistics
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.outputs import check_file_space, input_sources, output_file
from hf_vbp.workflow.requests import CalibrationImages, DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.costs.latency import LatencyOptions
    from hf_vbp.pruning.plan import PruningPlan
    from hf_vbp.statistics.activation_statistics import ActivationStatistics


@dataclass(frozen=True)
class StatsRequest:
    """Arguments of ``hf-vbp stats``.

    Attributes:
        model: Hub id, folder or ``sample``.
        data: The images.
        output: File of the statistics.
        config: Its criterion and compensation determine the statistics that are gathered.
        halves: Also gather the co-moments of one half of the images, for regularizations that need them.
        precompute: Whether to run the expensive part of the criterion too, for all later plans.
        loading: How the model is loaded.
        overwrite: Whether to replace ``output``.
        resume: Folder for the state of the pass; a killed pass continues from it.
        resume_every: Batches between two writes of the state.
        max_bytes: The memory that the sums may take. Where they need more, groups of MLPs are gathered in several
            passes, in a folder next to ``output`` that is deleted at the end.
    """

    model: str
    data: DataRequest
    output: Path
    config: "VBPConfig"
    halves: bool = False
    precompute: bool = True
    loading: Loading = field(default_factory=Loading)
    overwrite: bool = False
    resume: Path | None = None
    resume_every: int = 50
    max_bytes: int | None = None


def run_stats(request: StatsRequest, reporter: Reporter) -> "ActivationStatistics":
    """Gather statistics and save them; under ``accelerate launch`` the processes share the images.

    Raises:
        HfVbpError: Any failure, raised before the pass where that is possible.
    """
    inputs = input_sources(model=request.model, data=request.data)
    _check_state_folder(request.output, request.resume)
    with output_file(request.output, request.overwrite, inputs, leads=is_main_process()):
        return _gather_and_save(request, reporter)


def _check_state_folder(output: Path, state: Path | None) -> None:
    if state is None:
        return
    file, folder = Path(os.path.realpath(output)), Path(os.path.realpath(state))
    if file in (folder, *folder.parents):
        raise ConfigurationError(f"The output {output} would replace the folder of the state, {state}.")


def _gather_and_save(request: StatsRequest, reporter: Reporter) -> "ActivationStatistics":
    from hf_vbp.adapters.prepared import prepare_sites
    from hf_vbp.calibration.collect import collect_statistics, requirements_for, statistics_bytes
    from hf_vbp.config.requirements import Requirements
    from hf_vbp.pruning.budget_cost import check_budget
    from hf_vbp.pruning.make_plan import precompute_scores
    from hf_vbp.statistics.activation_statistics import ActivationStatistics
    from hf_vbp.statistics.stored_sites import StoredSites

    reporter.say(f"Loading {request.model}")
    loaded = request.loading.load(request.model)
    calibration = CalibrationImages(request.data, loaded)
    images = calibration.images
    prepared = prepare_sites(loaded.model, calibration.first)
    check_budget(prepared, request.config)
    requires = requirements_for(prepared, request.config) | Requirements(halves=request.halves)
    size = statistics_bytes(prepared.sites, requires)
    grouped = request.max_bytes is not None and size > request.max_bytes
    check_file_space(request.output, 2 * size if grouped else size)
    reporter.say(f"{len(prepared.sites)} MLPs; the sums take {size / 1e6:.1f} MB in each process")
    store = request.output.with_name(f"{request.output.name}.sites") if grouped else None
    if store is not None:
        reporter.say(f"Gathering groups of MLPs in several passes, in {store}")
    with reporter.stage("Statistics", images.images) as progress:
        statistics = collect_statistics(
            prepared,
            calibration.source,
            requires,
            progress=progress,
            resume=request.resume,
            resume_every=request.resume_every,
            max_bytes=request.max_bytes,
            store=store,
        )
    stored = statistics.sites
    if is_main_process():
        if request.precompute:
            with reporter.stage("Elimination", len(prepared.sites)) as progress:
                device = str(loaded.model.device)
                statistics = precompute_scores(prepared, statistics, request.config, device=device, progress=progress)
        statistics.save(request.output)
    if isinstance(stored, StoredSites) and is_main_process():
        stored.delete()
        return ActivationStatistics.load(request.output)
    return statistics


def run_plan(
    model: str,
    statistics: Path,
    config: "VBPConfig",
    output: Path | None,
    reporter: Reporter,
    *,
    loading: Loading,
    latency: "LatencyOptions | None" = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> "PruningPlan":
    """Make a plan from a file of statistics, and save it to ``output``.

    Args:
        model: Hub id, folder or ``sample``.
        statistics: File of statistics of this model.
        config: Method and budget.
        output: File of the plan; ``None`` saves nothing.
        reporter: Receives progress updates.
        loading: How the model is loaded; its dtype is that of the statistics.
        latency: Conditions under which the latency of the plan is measured; ``None`` measures it only for a latency
            budget. On a machine that is too noisy it is left out with a warning.
        threads: Threads of the CPU while a latency budget is measured.
        overwrite: Whether to replace ``output``.

    Raises:
        HfVbpError: The statistics do not belong to the model, or the budget cannot be met.
    """
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.costs.latency import cpu_threads
    from hf_vbp.pruning.make_plan import make_plan
    from hf_vbp.statistics.activation_statistics import ActivationStatistics
    from hf_vbp.workflow.kept_measurements import lever_warnings
    from hf_vbp.workflow.measure import measure_plan

    inputs = input_sources(model=model, statistics=statistics)
    with nullcontext() if output is None else output_file(output, overwrite, inputs):
        gathered = ActivationStatistics.load(statistics)
        loaded = replace(loading, dtype=str(gathered.fingerprints["dtype"])).load(model)
        prepared = prepare(loaded.model)
        gathered.check_model(prepared)
        check_statistics(gathered, config, statistics, model=model)
        searches = config.budget.kind == "latency"
        stage = reporter.stage("Latency of candidates") if searches else nullcontext()
        with stage as progress, cpu_threads(threads), lever_warnings(reporter):
            plan = make_plan(prepared, gathered, config, progress=progress)
        if latency is not None:
            plan = replace(plan, latency=measure_plan(prepared, plan, latency, reporter) or plan.latency)
        if output is not None:
            plan.save(output)
    return plan


def run_merge(files: Sequence[Path], output: Path, *, overwrite: bool) -> "ActivationStatistics":
    """Join files of statistics and save the result.

    Raises:
        HfVbpError: They cannot be merged, or the output cannot be written.
    """
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

    if len(files) < 2:
        raise ConfigurationError(f"Merging takes two files or more, got {len(files)}.")
    with output_file(output, overwrite, {f"{file}, an input": file for file in files}):
        merged = ActivationStatistics.load(files[0])
        for file in files[1:]:
            merged = merged.merge(ActivationStatistics.load(file))
        merged.save(output)
    return merged


def describe_statistics_file(statistics: "ActivationStatistics") -> dict[str, Any]:
    """Return the content of a file of statistics as plain values: its size, its sites and the split-half agreement."""
    from hf_vbp.statistics.split_halves import halves_agreement
    from hf_vbp.statistics.table import site_rows

    agreement = halves_agreement(statistics)
    curve = statistics.sites[0].curve
    return {
        "images": statistics.images,
        "tokens": statistics.tokens,
        "holds": statistics.provides.names(),
        "elimination_curves": None if curve is None else dict(curve.options),
        "sites": [asdict(row) for row in site_rows(statistics)],
        "halves": None if agreement is None else agreement.to_dict(),
    }
