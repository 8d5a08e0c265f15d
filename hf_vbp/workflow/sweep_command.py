"""``hf-vbp sweep``: a sweep of a checkpoint and images given by name, written to a CSV file and a plot."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.presets import PRESETS
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import ConfigurationError, DataError, OutputError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.gather import check_statistics, with_skipped
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.outputs import files_in_folder, input_sources
from hf_vbp.workflow.requests import CalibrationImages, DataRequest, Reporter
from hf_vbp.workflow.sweep import (
    MODELS_IN_MEMORY,
    Row,
    check_sweep,
    sweep_rows,
    sweep_statistics,
    sweep_tasks,
    with_method,
)
from hf_vbp.workflow.sweep_kept import KEPT_NAME, KeptStatistics
from hf_vbp.workflow.sweep_plot import INSTALL, can_draw, draw
from hf_vbp.workflow.sweep_table import SweepTable, description_digest, flat, method_columns, model_digest

TABLE_NAME, PLOT_NAME = "sweep.csv", "sweep.png"
MOST_RATIOS = 1000


@dataclass(frozen=True)
class SweepRequest:
    """Arguments of ``hf-vbp sweep``.

    Attributes:
        model: Hub id, folder or ``sample``.
        methods: The methods; their budgets are not used.
        ratios: Shares of hidden neurons to remove.
        evaluation: Labelled images.
        output: Folder of the table and the plot.
        data: Calibration images; not needed with ``statistics``.
        statistics: File of statistics gathered earlier.
        latency: Conditions under which latency is measured; None measures none.
        overwrite: Whether the sweep of another model, or any other file of that name, may be replaced.
        loading: How the model is loaded.
    """

    model: str
    methods: Sequence[VBPConfig]
    ratios: Sequence[float]
    evaluation: DataRequest
    output: Path
    data: DataRequest | None = None
    statistics: Path | None = None
    latency: LatencyOptions | None = None
    overwrite: bool = False
    loading: Loading = field(default_factory=Loading)


@dataclass(frozen=True)
class SweepResult:
    """Result of :func:`run_sweep`.

    Attributes:
        rows: The rows of the request, the dense model first, as the file holds them.
        files: The files that were written.
        continued: How many rows were already in the file.
    """

    rows: list[Row]
    files: list[Path]
    continued: int


def run_sweep(request: SweepRequest, reporter: Reporter) -> SweepResult:
    """Run :func:`hf_vbp.sweep` on a checkpoint and images that are given by name, and write a table and a plot.

    The table is written after each group of models. Rows in it that belong to the same model, statistics, evaluation
    images and method are kept and not computed again, so an interrupted sweep continues. Statistics that the sweep
    gathers are kept in the same folder, so that it does not repeat the pass either.

    Args:
        request: The request.
        reporter: Receives progress updates.

    Raises:
        OutputError: The output cannot be written, or holds a sweep of another model and ``overwrite`` is false.
        HfVbpError: Any other failure, raised before expensive work where that is possible.
    """
    if request.data is None and request.statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    tasks = sweep_tasks(request.methods, request.ratios)
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation, statistics=request.statistics
    )
    names = (TABLE_NAME, PLOT_NAME)
    earlier = _earlier(request)
    with files_in_folder(request.output, names, request.overwrite or bool(earlier.rows), inputs):
        if not can_draw():
            reporter.say(f"No plot will be drawn: matplotlib is not installed. Install it with: {INSTALL}")
        return _sweep(request, tasks, earlier, reporter)


def _earlier(request: SweepRequest) -> SweepTable:
    path = request.output / TABLE_NAME
    return SweepTable(path) if request.overwrite or not path.is_file() else SweepTable.load(path)


def _sweep(request: SweepRequest, tasks: list[VBPConfig], table: SweepTable, reporter: Reporter) -> SweepResult:
    loaded = request.loading.load(request.model)
    calibration = None if request.data is None else CalibrationImages(request.data, loaded)
    prepared = check_sweep(loaded.model, tasks, None if calibration is None else calibration.first)
    images = request.evaluation.open(loaded, "evaluation")
    identity = {"weights": model_digest(loaded.model), "evaluation": description_digest(images.provenance)}
    table.check_same(identity)
    prepared.verified()
    statistics = _statistics(request, calibration, prepared, table, reporter)
    identity["statistics"] = statistics_digest(statistics)[:16]
    table.check_same(identity)
    missing = [task for task in tasks if table.find(task, request.latency) is None]
    continued = len(tasks) - len(missing)
    if continued:
        reporter.say(f"{continued} of {len(tasks)} rows are kept from {table.path}.")
    groups = -(-len(missing) // MODELS_IN_MEMORY)
    total = None if images.images is None else groups * images.images
    stage = reporter.stage(f"Evaluation of {len(missing)} models", total) if missing else nullcontext()
    with stage as progress:
        made = sweep_rows(
            prepared,
            statistics,
            missing,
            images.loader,
            data=None if calibration is None else calibration.source,
            latency=request.latency,
            progress=progress,
            on_noise=lambda error: reporter.warn(f"The latency of some rows is left out. {error}"),
        )
        for start, rows in zip(range(0, len(missing), MODELS_IN_MEMORY), made, strict=True):
            methods: list[Row] = [{}, *map(method_columns, missing[start : start + MODELS_IN_MEMORY])]
            named = {"model": Path(request.model).name, **identity}
            table.add([flat(row, **method, **named) for row, method in zip(rows, methods, strict=True)])
    with_skipped(images, reporter)
    return SweepResult(_asked(table, tasks), [table.path, *_plot(request, table)], continued)


def _statistics(
    request: SweepRequest,
    calibration: CalibrationImages | None,
    prepared: PreparedModel,
    table: SweepTable,
    reporter: Reporter,
) -> ActivationStatistics:
    if request.statistics is not None:
        return _given(request, request.statistics, calibration, prepared, table, reporter)
    calibration = cast(CalibrationImages, calibration)
    images = calibration.images
    kept = KeptStatistics(request.output / KEPT_NAME, request.overwrite)
    earlier = kept.load(prepared, request.methods, images.provenance)
    keeps = kept.check_space(prepared, request.methods, reporter)
    if earlier is not None:
        reporter.say(f"The statistics are those of the earlier run, {kept.path}.")
    with reporter.stage("Statistics", images.images) as progress:
        statistics = sweep_statistics(prepared, request.methods, calibration.source, earlier, progress=progress)
    if statistics is earlier:
        return statistics
    if earlier is None:
        described = {**statistics.fingerprints, "data": with_skipped(images, reporter)}
        statistics = replace(statistics, fingerprints=described)
    if keeps:
        kept.save(statistics, reporter)
    return statistics


def _given(
    request: SweepRequest,
    file: Path,
    calibration: CalibrationImages | None,
    prepared: PreparedModel,
    table: SweepTable,
    reporter: Reporter,
) -> ActivationStatistics:
    """Return the statistics of ``--statistics``, with what a separate pass over ``--data`` adds."""
    statistics = ActivationStatistics.load(file)
    statistics.check_model(prepared)
    for method in request.methods:
        check_statistics(statistics, method, file, model=request.model, has_images=calibration is not None)
    table.check_same({"statistics": statistics_digest(statistics)[:16]})
    images, source = (None, None) if calibration is None else (calibration.images, calibration.source)
    with reporter.stage("Statistics", None if images is None else images.images) as progress:
        return sweep_statistics(prepared, request.methods, source, statistics, progress=progress)


def _asked(table: SweepTable, tasks: Sequence[VBPConfig]) -> list[Row]:
    """Return the rows of a request: the dense model, then the tasks in their order."""
    dense = [row for row in table.rows if row["ratio"] == 0]
    found = [table.find(task, None) for task in tasks]
    return [*dense, *(row for row in found if row is not None)]


def _plot(request: SweepRequest, table: SweepTable) -> list[Path]:
    if not can_draw():
        return []
    path = request.output / PLOT_NAME
    try:
        atomic_write(path, draw(table.rows, f"{Path(request.model).name}, no training"))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. The table is in {table.path}.") from error
    return [path]


def parse_ratios(text: str) -> list[float]:
    """Read ratios in the form ``start:stop:step`` (stop included) or a list ``0.1,0.3,0.5``.

    Raises:
        ConfigurationError: The text has another form, a ratio is outside (0, 1), or there are more than 1000.
    """
    form = f"--ratios takes start:stop:step or a list such as 0.1,0.3, got {text!r}."
    try:
        numbers = [float(part) for part in text.split(":" if ":" in text else ",")]
    except ValueError as error:
        raise ConfigurationError(form) from error
    if not all(map(math.isfinite, numbers)) or (":" in text and len(numbers) != 3):
        raise ConfigurationError(form)
    if ":" in text:
        start, stop, step = numbers
        steps = (stop - start) / step + 1e-9 if step > 0 else -1
        if steps >= MOST_RATIOS:
            raise ConfigurationError(
                f"--ratios {text} gives too many ratios; at most {MOST_RATIOS} are swept. Choose a larger step."
            )
        numbers = [round(start + index * step, 10) for index in range(int(steps) + 1)] if steps >= 0 else []
    if not numbers or not all(0 < ratio < 1 for ratio in numbers):
        raise ConfigurationError(f"--ratios must be between 0 and 1, at least one of them; got {text!r}.")
    return numbers


def parse_methods(texts: Sequence[str], config: VBPConfig) -> list[VBPConfig]:
    """Read methods in the form ``criterion+compensation``, or names of presets.

    Args:
        texts: The methods; without any, the one of ``config``.
        config: Scope and limits of all methods.

    Raises:
        ConfigurationError: A text has another form, a name is unknown, or ``config`` has options of a method.
    """
    if not texts:
        return [config]
    if config.criterion_options or config.compensation_options:
        raise ConfigurationError(
            "--criterion-option and --compensation-option belong to one method; use --criterion and --compensation "
            "in place of --method."
        )
    methods = []
    for text in texts:
        preset: dict[str, Any] | None = PRESETS.get(text)
        criterion, plus, compensation = text.partition("+")
        if preset is not None:
            criterion, compensation = preset["criterion"], preset["compensation"]
        elif not plus:
            raise ConfigurationError(
                f"--method takes criterion+compensation, or one of {', '.join(PRESETS)}; got {text!r}."
            )
        methods.append(with_method(config, criterion, compensation))
    return methods
