"""Accuracy against the share of removed neurons, from one pass over the calibration images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.errors import ConfigurationError, DataError, OutputError
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.files.atomic import atomic_write
from hf_vbp.pruning.apply_plan import apply_fitted
from hf_vbp.pruning.make_plan import fit_plan, meet_budget, rank_sites
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.gather import gather
from hf_vbp.workflow.loading import load_model
from hf_vbp.workflow.outputs import files_in_folder, input_sources
from hf_vbp.workflow.prune import complete_statistics
from hf_vbp.workflow.requests import DataRequest, Reporter

MODELS_IN_MEMORY = 4
"""Pruned models that are evaluated together in one pass over the evaluation images."""

TABLE_NAME, PLOT_NAME = "sweep.csv", "sweep.png"


def sweep(
    model: nn.Module | PreparedModel,
    data: Iterable[Any] | None,
    config: VBPConfig | None = None,
    *,
    ratios: Sequence[float],
    eval_data: Iterable[Mapping[str, Any]],
    statistics: ActivationStatistics | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Prune at several ratios from one pass of statistics, and evaluate all models on the same images.

    The calibration images are read once and the neurons are ranked once. At most four pruned models are in memory at a
    time; the evaluation images are read once for each group of four.

    Args:
        model: The dense model, a classifier; it is not changed.
        data: Calibration images, as for :func:`hf_vbp.prune`. Not needed with ``statistics``.
        config: The method; its budget is not used. By default ``VBPConfig()``.
        ratios: Shares of hidden neurons to remove, in (0, 1).
        eval_data: Batches with ``pixel_values`` and ``labels``: the result of :func:`hf_vbp.load_images`, a
            ``DataLoader``, or any iterable of dicts that can be read more than once.
        statistics: Statistics gathered earlier from this model.
        limit: Stop gathering after this many images.
        progress: Receives the number of finished images and, where it is known, of all: first for the calibration
            images, then for the evaluation images, which count once for each time they are read.

    Returns:
        One row per ratio, after a row for the dense model with ratio 0: ``ratio``, ``parameters``, ``macs``, ``bytes``
        and the figures of :class:`hf_vbp.evaluation.models.Evaluation`, against the dense model.

    Raises:
        ConfigurationError: A ratio is not between 0 and 1, or ``config`` does not fit the model.
        DataError: Neither ``data`` nor ``statistics`` was given, or there are no images to evaluate on.
        UnsupportedModelError: The model cannot be pruned as it is, or gives no logits.
        BudgetError: Pruning the MLPs cannot remove as large a share as one of ``ratios``.
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
    config = config or VBPConfig()
    configs = _configs(config, ratios)
    loader = getattr(eval_data, "loader", eval_data)
    if iter(loader) is loader and len(ratios) > MODELS_IN_MEMORY:
        raise DataError(
            f"eval_data is read once for every {MODELS_IN_MEMORY} ratios, but an iterator can be read only once. Pass "
            "a list of batches, a DataLoader or the result of load_images."
        )
    prepared = prepare(model)
    prepared.check_requirements(f"compensation {config.compensation!r}", config.make_compensation().requires)
    if statistics is not None:
        statistics = complete_statistics(prepared, statistics, config, data, limit=limit, progress=progress)
    elif data is not None:
        statistics = collect_statistics(prepared, data, config, limit=limit, progress=progress)
    else:
        raise DataError("Nothing to calibrate on: pass data (images), or statistics gathered earlier.")
    return list(_rows(prepared, statistics, configs, loader, progress))


def _configs(config: VBPConfig, ratios: Sequence[float]) -> list[VBPConfig]:
    """Return the configuration of every ratio, which validates them."""
    if not ratios:
        raise ConfigurationError("A sweep needs at least one ratio, for instance ratios=[0.25, 0.5].")
    return [config.with_budget(ratio=ratio) for ratio in ratios]


def _rows(
    prepared: PreparedModel,
    statistics: ActivationStatistics,
    configs: Sequence[VBPConfig],
    loader: Iterable[Mapping[str, Any]],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    rankings = rank_sites(prepared, statistics, configs[0])
    for config in configs:
        # A ratio that cannot be reached is reported before the first evaluation.
        meet_budget(prepared, statistics, config, rankings)
    groups = [configs[start : start + MODELS_IN_MEMORY] for start in range(0, len(configs), MODELS_IN_MEMORY)]
    for index, group in enumerate(groups):
        # Numbered, since the same ratio may be asked for twice.
        models = {"dense": prepared.model}
        for number, config in enumerate(group):
            fitted = fit_plan(prepared, statistics, config, rankings=rankings)
            models[f"pruned {number}"] = apply_fitted(prepared.model, prepared.sites, fitted)
        found = evaluate_models(models, loader, progress=_of_all(progress, index, len(groups)))
        ratios = [0.0, *(config.budget.asked for config in group)]
        for (name, pruned), ratio in zip(models.items(), ratios, strict=True):
            if index == 0 or ratio:
                yield {"ratio": ratio, **describe_cost(pruned), **found[name].to_dict()}


def _of_all(progress: Progress | None, index: int, passes: int) -> Progress | None:
    """Return what receives the progress of pass ``index`` and reports that of all passes."""
    if progress is None:
        return None

    def report(done: int, total: int | None) -> None:
        if total is None:
            progress(done, None)
        else:
            progress(index * total + done, passes * total)

    return report


@dataclass(frozen=True)
class SweepRequest:
    """Parameters of ``hf-vbp sweep``.

    Attributes:
        model: Hub id, folder or ``sample``.
        config: The method; its budget is not used.
        ratios: Shares of hidden neurons to remove.
        data: Calibration images.
        evaluation: Labelled images.
        revision: Revision of the model.
        dtype: Dtype to load the model in.
        device: Device of the computation.
    """

    model: str
    config: VBPConfig
    ratios: Sequence[float]
    data: DataRequest
    evaluation: DataRequest
    revision: str | None = None
    dtype: str = "auto"
    device: str | None = None


def run_sweep(request: SweepRequest, reporter: Reporter) -> list[dict[str, Any]]:
    """Run :func:`sweep` on a checkpoint and images that are given by name.

    Args:
        request: The parameters of the job.
        reporter: Receives progress updates.

    Returns:
        The rows of :func:`sweep`.
    """
    loaded = load_model(request.model, revision=request.revision, dtype=request.dtype, device=request.device)
    prepared = prepare(loaded.model)
    compensation = request.config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    images = request.evaluation.open(loaded, "evaluation")
    statistics = gather(prepared, loaded, request.config, reporter, data=request.data)
    passes = -(-len(request.ratios) // MODELS_IN_MEMORY)
    total = None if images.images is None else passes * images.images
    with reporter.stage(f"Evaluation at {len(request.ratios)} ratios", total) as progress:
        return sweep(
            prepared,
            None,
            request.config,
            ratios=request.ratios,
            eval_data=images,
            statistics=statistics,
            progress=progress,
        )


def parse_ratios(text: str) -> list[float]:
    """Read ratios in the form ``start:stop:step`` (stop included) or a list ``0.1,0.3,0.5``.

    Raises:
        ConfigurationError: The text has another form, or a ratio is outside (0, 1).
    """
    try:
        if ":" in text:
            start, stop, step = map(float, text.split(":"))
            number = int((stop - start) / step + 1e-9) + 1 if step > 0 else 0
            ratios = [round(start + index * step, 10) for index in range(number)]
        else:
            ratios = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"--ratios takes start:stop:step or a list such as 0.1,0.3, got {text!r}.") from error
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise ConfigurationError(f"--ratios must be between 0 and 1, at least one of them; got {text!r}.")
    return ratios


@contextmanager
def sweep_output(request: SweepRequest, directory: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Check the folder of a sweep before its work, and hold it until the block ends.

    Raises:
        OutputError: It cannot be written to, is an input, or has a sweep and ``overwrite`` is false.
    """
    inputs = input_sources(model=request.model, data=request.data, evaluation=request.evaluation)
    with files_in_folder(directory, (TABLE_NAME, PLOT_NAME), overwrite, inputs) as folder:
        yield folder


def write_sweep(rows: list[dict[str, Any]], directory: Path, title: str) -> list[Path]:
    """Write the rows as CSV and, where matplotlib is installed, as a plot; return the files.

    Raises:
        OutputError: A file cannot be written.
    """
    import csv

    text = StringIO(newline="")
    names = [name for name in rows[-1] if name != "top1_interval"]
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    table, plot = directory / TABLE_NAME, directory / PLOT_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(table, text.getvalue().encode("utf-8"))
        drawn = _draw(rows, title)
        if drawn is None:
            return [table]
        atomic_write(plot, drawn)
    except OSError as error:
        raise OutputError(f"{directory} cannot be written: {error}. Choose another output.") from error
    return [table, plot]


def _draw(rows: list[dict[str, Any]], title: str) -> bytes | None:
    """Return the plot as PNG; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="share of hidden neurons removed", ylabel="top-1", title=title)
    shares, values = [row["ratio"] for row in rows], [row["top1"] for row in rows]
    errors = [[abs(row["top1"] - row["top1_interval"][side]) for row in rows] for side in (0, 1)]
    axes.errorbar(shares, values, yerr=errors, marker="o", capsize=3)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    image = BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
