"""Gather statistics into a file, and make plans from such a file."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.distributed import is_main_process
from hf_vbp.errors import StatisticsError
from hf_vbp.workflow.gather import check_statistics
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.pruning.plan import PruningPlan
    from hf_vbp.statistics.activation_statistics import ActivationStatistics


@dataclass(frozen=True)
class StatsRequest:
    """Arguments of ``hf-vbp stats``.

    Attributes:
        model: Hub id, folder or ``sample``.
        data: The images.
        output: File of the statistics.
        config: Its criterion and compensation determine what is gathered.
        halves: Also gather the co-moments of one half of the images, for regularizations that need them.
        precompute: Whether to run the expensive part of the criterion too, so that no plan has to.
        loading: How the model is loaded.
        overwrite: Whether to replace ``output``.
        resume: Folder for the state of the pass; a killed pass continues from it.
        resume_every: Batches between two writes of the state.
        max_bytes: Refuse to start when the sums would take more memory.
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
        HfVbpError: Anything that cannot be done, before the pass where that can be known.
    """
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.calibration.collect import collect_statistics, requirements_for, statistics_bytes
    from hf_vbp.config.requirements import Requirements
    from hf_vbp.pruning.make_plan import precompute_scores

    check_output_file(request.output, request.overwrite)
    reporter.say(f"Loading {request.model}")
    loaded = request.loading.load(request.model)
    images = request.data.open(loaded, "calibration")
    prepared = prepare(loaded.model)
    requires = requirements_for(loaded.model, request.config) | Requirements(halves=request.halves)
    size = statistics_bytes(prepared.sites, requires)
    reporter.say(f"{len(prepared.sites)} MLPs; the sums take {size / 1e6:.1f} MB in each process")
    with reporter.stage("Statistics", images.images) as progress:
        statistics = collect_statistics(
            prepared,
            images,
            requires,
            progress=progress,
            resume=request.resume,
            resume_every=request.resume_every,
            max_bytes=request.max_bytes,
        )
    if is_main_process():
        if request.precompute:
            with reporter.stage("Elimination", len(prepared.sites)) as progress:
                device = str(loaded.model.device)
                statistics = precompute_scores(prepared, statistics, request.config, device=device, progress=progress)
        statistics.save(request.output)
    return statistics


def run_plan(
    model: str, statistics: Path, config: "VBPConfig", output: Path | None, *, loading: Loading, overwrite: bool
) -> "PruningPlan":
    """Make a plan from a file of statistics, and save it to ``output``.

    Args:
        model: Hub id, folder or ``sample``.
        statistics: File of statistics of this model.
        config: What to remove and how, with a budget.
        output: File of the plan; ``None`` saves nothing.
        loading: How the model is loaded; its dtype is that of the statistics.
        overwrite: Whether to replace ``output``.

    Raises:
        HfVbpError: The statistics do not belong to the model, or the budget cannot be met.
    """
    from hf_vbp.pruning.make_plan import make_plan
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

    if output is not None:
        check_output_file(output, overwrite)
    gathered = ActivationStatistics.load(statistics)
    loaded = replace(loading, dtype=str(gathered.fingerprints["dtype"])).load(model)
    gathered.check_model(loaded.model)
    check_statistics(gathered, config, statistics, model=model)
    plan = make_plan(loaded.model, gathered, config)
    if output is not None:
        plan.save(output)
    return plan


def check_output_file(path: Path, overwrite: bool) -> None:
    """Refuse a file that must not or cannot be written, before any work.

    Raises:
        StatisticsError: It exists and ``overwrite`` is false, or its folder does not exist.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise StatisticsError(f"{path} exists already; choose another name or pass --overwrite.")
    if not path.absolute().parent.is_dir():
        raise StatisticsError(f"{path} cannot be written: the folder {path.absolute().parent} does not exist.")


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
