"""The long steps of the page, which report their progress: statistics, measurements, curve, pruning."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.criteria.base import Ranking
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.evaluation.models import check_classifier
from hf_vbp.pruning.make_plan import precompute_scores, rank_sites
from hf_vbp.pruning.preview import Preview, Previewer, damage_curves
from hf_vbp.results.base_model import describe_base_model
from hf_vbp.results.redaction import redacted_command
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.ui.worker import Job, Reporter
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.evaluate import evaluate
from hf_vbp.workflow.gather import gather
from hf_vbp.workflow.loading import LoadedModel, Loading, without_progress_bars
from hf_vbp.workflow.measure_grid import measure_grid
from hf_vbp.workflow.prune import check_request, prune
from hf_vbp.workflow.pruning_result import with_receipt
from hf_vbp.workflow.requests import CalibrationImages, DataRequest
from hf_vbp.workflow.saving import save_checkpoint
from hf_vbp.workflow.sweep import check_sweep, sweep_rows
from hf_vbp.workflow.sweep_tasks import Row, sweep_tasks

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of removed neurons of the measured curve."""
QUICK_LATENCY = LatencyOptions(precision=0.1, seconds=4.0)


@dataclass(frozen=True, eq=False)
class Study:
    """A model with its statistics, from which any plan can be read.

    Attributes:
        loaded: The model.
        prepared: Its sites.
        calibration: The calibration images.
        request: The images as the user named them.
        statistics: The statistics, with measurements of merged tokens and latency where they were made.
        rankings: Of the neurons.
        previewer: Reads previews.
        images: Description of the calibration images.
        no_curve: Why the curve cannot be measured; empty where it can.
    """

    loaded: LoadedModel
    prepared: PreparedModel
    calibration: CalibrationImages
    request: DataRequest
    statistics: ActivationStatistics
    rankings: Sequence[Ranking]
    previewer: Previewer
    images: dict[str, Any]
    no_curve: str = ""

    def preview(self, config: VBPConfig) -> Preview:
        """Return the preview of a plan; see :meth:`hf_vbp.pruning.preview.Previewer.of`."""
        return self.previewer.of(config, self.statistics.measurements_of(config.method))

    def knows_tokens(self, config: VBPConfig) -> bool:
        """Return whether the measurements that a choice of merged tokens needs were made, where it needs any."""
        return "tokens" not in config.used_levers or self.statistics.measurements_of(config.method) is not None


@dataclass(frozen=True)
class Pruned:
    """A pruned and verified checkpoint.

    Attributes:
        folder: The checkpoint.
        archive: The same as a zip file.
        results: The content of its ``vbp_results.json``.
    """

    folder: Path
    archive: Path
    results: dict[str, Any] = field(repr=False)


def make_study(model: str, request: DataRequest, loading: Loading, job: Job) -> Study:
    """Load a model, gather its statistics, and compute what previews need.

    Args:
        model: Hub id, folder or ``sample``.
        request: The calibration images.
        loading: How the model is loaded.
        job: Receives the progress; may be cancelled.

    Raises:
        HfVbpError: The model or the images cannot be used.
    """
    reporter, config = Reporter(job), VBPConfig()
    reporter.say(f"Loading {model}")
    with without_progress_bars():
        loaded = loading.load(model)
    reporter.say("Reading the first image")
    calibration = CalibrationImages(request, loaded)
    prepared = check_request(loaded.model, config.with_budget(ratio=0.5), calibration.first).verified()
    statistics = gather(prepared, loaded, config, reporter, data=calibration)
    if skipped := len(calibration.images.bad_images):
        job.warn(f"Skipped {skipped} images that cannot be decoded.")
    with reporter.stage("Ranking the neurons", len(prepared.sites)) as progress:
        statistics = precompute_scores(prepared, statistics, config, progress=progress)
    rankings = rank_sites(prepared, statistics, config)
    with reporter.stage("Predicting the damage", len(prepared.sites)) as progress:
        curves = damage_curves(prepared, statistics, rankings, config, progress)
    study = Study(
        loaded,
        prepared,
        calibration,
        request,
        statistics,
        rankings,
        Previewer(prepared, rankings, curves),
        describe_images(calibration.images),
        _why_no_curve(loaded),
    )
    # Counts the costs once.
    study.preview(config.with_budget(ratio=0.5))
    return study


_CURVE_OF_CLASSIFIERS = (
    "the page draws the agreement of classifiers. `hf-vbp sweep` measures other models at many ratios."
)


def _why_no_curve(loaded: LoadedModel) -> str:
    try:
        check_classifier(loaded.model, loaded.source, _CURVE_OF_CLASSIFIERS)
    except UnsupportedModelError as error:
        return one_line(error)
    return ""


def measure(study: Study, config: VBPConfig, job: Job) -> Study:
    """Measure merged tokens, narrower MLPs and latency on a grid, and return the study with the measurements.

    Args:
        study: The study.
        config: Scope and limits; the budget is not used.
        job: Receives the progress.

    Raises:
        UnsupportedModelError: There is no output distance for this model.
    """
    with Reporter(job).stage("Measuring merged tokens and latency") as progress:
        statistics = measure_grid(
            study.prepared,
            study.statistics,
            config,
            Source.of(study.calibration.images),
            study.rankings,
            latency=QUICK_LATENCY,
            progress=progress,
            on_noise=lambda error: job.warn(f"Some latencies are missing. {error}"),
        )
    return replace(study, statistics=statistics)


def measure_curve(study: Study, config: VBPConfig, job: Job) -> list[Row]:
    """Return the rows of a sweep over :data:`RATIOS`, on the evaluation images without labels.

    Args:
        study: The study.
        config: Scope and limits.
        job: Receives the progress.

    Raises:
        UnsupportedModelError: The model is no classifier.
    """
    # Merged tokens have no share of neurons.
    plain = replace(config, levers=("mlp",))
    tasks = [task for task in sweep_tasks([plain], RATIOS) if _reachable(study, task)]
    check_classifier(study.prepared.model, study.loaded.source, _CURVE_OF_CLASSIFIERS)
    check_sweep(study.prepared, tasks)
    images = study.request.open(study.loaded, "evaluation", labels="none")
    rows: list[Row] = []
    with Reporter(job).stage("Measuring the curve", images.images) as progress:
        source = Source.of(study.calibration.images)
        made = partial(sweep_rows, data=source, progress=progress)
        for group in made(study.prepared, study.statistics, tasks, images.loader):
            rows += group[1:] if rows else group
    return rows


def _reachable(study: Study, task: VBPConfig) -> bool:
    widths = [task.limits.rounded(task.limits.floor(width), width) for width in study.prepared.widths]
    return task.budget.share <= 1 - sum(widths) / sum(study.prepared.widths)


def prune_study(study: Study, config: VBPConfig, folder: Path, job: Job) -> Pruned:
    """Prune the model, evaluate it, write and verify the checkpoint, and pack it.

    Args:
        study: The study.
        config: Budget and levers.
        folder: A new folder.
        job: Receives the progress.

    Raises:
        HfVbpError: The budget cannot be met, or the checkpoint does not reload as the model.
    """
    reporter, source = Reporter(job), Source.of(study.calibration.images)
    check_request(study.prepared, config)
    with reporter.stage("Pruning", None) as progress:
        result = prune(study.prepared, source, config, statistics=study.statistics, progress=progress)
    images = study.request.open(study.loaded, "evaluation", labels="model" if _is_sample(study) else "none")
    try:
        with reporter.stage("Evaluation", images.images) as progress:
            result = evaluate(result, images, progress=progress)
    except UnsupportedModelError as error:
        job.warn(f"The model was not evaluated. {error}")
    described = {
        "base_model": describe_base_model(study.loaded.model, study.loaded.source),
        "command": redacted_command(command_of(study.loaded.source, study.request, config, folder.name)),
    }
    result = replace(result, results={**result.results, **described})
    reporter.say("Reopening the checkpoint in a fresh process")
    with without_progress_bars():
        receipt = save_checkpoint(result, folder, processor=study.loaded.processor)
    reporter.say("Packing the checkpoint")
    archive = shutil.make_archive(str(folder), "zip", folder)
    return Pruned(folder, Path(archive), with_receipt(result.results, receipt))


def _is_sample(study: Study) -> bool:
    return study.loaded.source == "sample" and study.request.source == "sample"


def budget_flags(config: VBPConfig) -> list[str]:
    """Return the options of the command line for the budget and the levers of a configuration."""
    flag = {
        "ratio": "--ratio",
        "parameters": "--target-parameters",
        "macs": "--target-macs",
        "latency": "--target-latency",
    }
    given = [flag[config.budget.kind], f"{config.budget.asked}"]
    given += ["--round-to", f"{config.round_to}"] if config.budget.kind == "latency" else []
    given += ["--scope", config.scope] if config.scope != "global" else []
    given += ["--levers", ",".join(config.levers)] if config.levers is not None else []
    return given + (["--merge-tokens", str(config.merge_tokens)] if config.merge_tokens is not None else [])


def command_of(model: str, data: DataRequest, config: VBPConfig, output: str) -> str:
    """Return the command line that does the same."""
    limit = [] if data.limit is None else ["--limit", str(data.limit)]
    split = [] if data.split is None else ["--split", data.split]
    return shlex.join(
        ["hf-vbp", "prune", model, "--data", data.source, *split, *limit, *budget_flags(config), "--output", output]
    )
