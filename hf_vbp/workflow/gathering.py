"""Statistics of a checkpoint to a file, and plans from such a file."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_vbp.errors import ConfigurationError
from hf_vbp.loading import leads, load_model
from hf_vbp.workflow.outputs import check_file_space, input_sources, output_file
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.plan import PruningPlan
    from hf_vbp.pruning import VBPConfig
    from hf_vbp.statistics import ActivationStatistics


@dataclass(frozen=True)
class StatsRequest:
    """Everything that ``hf-vbp stats`` takes.

    Attributes:
        model: Hub id, folder or ``sample``.
        data: The images.
        output: File of the statistics.
        moments: ``"diagonal"`` or ``"full"``.
        output_metric: Whether to gather the output metric for criterion ``obs``.
        token_weights: Whether to gather moments with weighted tokens too, for criterion ``obs``.
        curves: Whether to run the greedy elimination of ``obs`` too, where there are covariances, so that no plan
            has to.
        revision: Revision of the model.
        dtype: What to load it in.
        device: Where to compute.
        overwrite: Whether to replace ``output``.
        resume: Folder for the state of the pass, so that a killed one goes on.
        resume_every: Batches between two writes of the state.
        max_bytes: Refuse to start when the sums would take more memory.
    """

    model: str
    data: DataRequest
    output: Path
    moments: Literal["diagonal", "full"] = "diagonal"
    output_metric: bool = False
    token_weights: bool = False
    curves: bool = True
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None
    overwrite: bool = False
    resume: Path | None = None
    resume_every: int = 50
    max_bytes: int | None = None


def run_stats(request: StatsRequest, reporter: Reporter) -> "ActivationStatistics":
    """Gather statistics and save them; under ``accelerate launch`` the processes share the images.

    Raises:
        HfVbpError: Anything that cannot be done, before the pass where that can be known.
    """
    inputs = input_sources(model=request.model, data=request.data)
    _check_state_folder(request.output, request.resume)
    with output_file(request.output, request.overwrite, inputs, leads=leads()):
        return _gather_and_save(request, reporter)


def _check_state_folder(output: Path, state: Path | None) -> None:
    if state is None:
        return
    file, folder = Path(os.path.realpath(output)), Path(os.path.realpath(state))
    if file in (folder, *folder.parents):
        raise ConfigurationError(f"The output {output} would take the place of the folder of the state, {state}.")


def _gather_and_save(request: StatsRequest, reporter: Reporter) -> "ActivationStatistics":
    from hf_vbp.adapters import find_sites
    from hf_vbp.planning import with_curves
    from hf_vbp.statistics import collect_statistics, statistics_bytes

    reporter.say(f"Loading {request.model}")
    loaded = load_model(request.model, revision=request.revision, dtype=request.dtype, device=request.device)
    images = request.data.open(loaded, "calibration")
    sites = find_sites(loaded.model)
    depth: dict[str, Any] = {
        "moments": request.moments,
        "output_metric": request.output_metric,
        "token_weights": request.token_weights,
    }
    size = statistics_bytes(sites, **depth)
    check_file_space(request.output, size)
    reporter.say(f"{len(sites)} MLPs; the sums take {size / 1e6:.1f} MB in each process")
    with reporter.stage("Statistics", images.images) as progress:
        statistics = collect_statistics(
            loaded.model,
            images.loader,
            **depth,
            progress=progress,
            provenance=images.provenance,
            resume=request.resume,
            resume_every=request.resume_every,
            max_bytes=request.max_bytes,
        )
    if leads():
        if request.curves and request.moments == "full":
            with reporter.stage("Elimination", len(sites)) as progress:
                device = str(loaded.model.device)
                statistics = with_curves(loaded.model, statistics, device=device, progress=progress)
        statistics.save(request.output)
    return statistics


def run_plan(
    model: str, statistics: Path, config: "VBPConfig", output: Path | None, *, revision: str | None, overwrite: bool
) -> "PruningPlan":
    """Make a plan from a file of statistics, and save it where ``output`` says.

    Raises:
        HfVbpError: The statistics do not belong to the model, or the budget cannot be met.
    """
    from hf_vbp.pruning import plan_for
    from hf_vbp.statistics import ActivationStatistics

    inputs = input_sources(model=model, statistics=statistics)
    with nullcontext() if output is None else output_file(output, overwrite, inputs):
        gathered = ActivationStatistics.load(statistics)
        loaded = load_model(model, revision=revision, dtype=str(gathered.fingerprints["dtype"]))
        plan = plan_for(loaded.model, gathered, config)
        if output is not None:
            plan.save(output)
    return plan


def run_merge(files: Sequence[Path], output: Path, *, overwrite: bool) -> "ActivationStatistics":
    """Join files of statistics and save the result.

    Raises:
        HfVbpError: They cannot be merged, or the output cannot be written.
    """
    from hf_vbp.statistics import ActivationStatistics

    if len(files) < 2:
        raise ConfigurationError(f"Merging takes two files or more, got {len(files)}.")
    with output_file(output, overwrite, {f"{file}, an input": file for file in files}):
        merged = ActivationStatistics.load(files[0])
        for file in files[1:]:
            merged = merged.merge(ActivationStatistics.load(file))
        merged.save(output)
    return merged
