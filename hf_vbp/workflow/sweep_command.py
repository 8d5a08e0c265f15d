"""``hf-vbp sweep``: a sweep of a checkpoint and images given by name, written to a CSV file and a plot."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from hf_vbp._progress import counted
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import DataError, OutputError
from hf_vbp.evaluation.neighbors import number_of_neighbors
from hf_vbp.evaluation.requests import Measures
from hf_vbp.files.atomic import atomic_write
from hf_vbp.pruning.make_plan import statistics_digest
from hf_vbp.results.lost_classes import describe_losses
from hf_vbp.results.sweep import SWEEP_RESULTS_NAME, describe_sweep, read_rows, sweep_to_json
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.describe import describe_images
from hf_vbp.workflow.evaluate import name_classes
from hf_vbp.workflow.evaluation_images import EvaluationRequest, check_evaluation_request, open_evaluation
from hf_vbp.workflow.gather import check_statistics, with_skipped
from hf_vbp.workflow.kept_measurements import keep_measurements, lever_warnings
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.outputs import files_in_folder, input_sources
from hf_vbp.workflow.requests import CalibrationImages, DataRequest, Reporter, late_stage
from hf_vbp.workflow.sweep import MODELS_IN_MEMORY, check_sweep, sweep_rows, sweep_statistics
from hf_vbp.workflow.sweep_front import is_dense
from hf_vbp.workflow.sweep_kept import KEPT_NAME, KeptStatistics
from hf_vbp.workflow.sweep_plot import INSTALL, can_draw, draw
from hf_vbp.workflow.sweep_table import (
    SweepTable,
    add_details,
    description_digest,
    flat,
    lacks_details,
    method_columns,
    model_digest,
)
from hf_vbp.workflow.sweep_tasks import Row, check_images, reachable_tasks, sweep_tasks

TABLE_NAME, PLOT_NAME = "sweep.csv", "sweep.png"


@dataclass(frozen=True)
class SweepRequest:
    """Arguments of ``hf-vbp sweep``.

    Attributes:
        model: Hub id, folder or ``sample``.
        methods: The methods; their budgets are not used.
        ratios: Shares of hidden neurons to remove.
        evaluation: Images to evaluate on, labelled where the model has classes; for backbones with a bank.
        macs: In place of ``ratios``: shares of the MACs to keep.
        levers: The levers to compare, each alone and all together.
        output: Folder of the table and the plot.
        data: Calibration images; not needed with ``statistics``.
        statistics: File of statistics gathered earlier.
        latency: Conditions under which latency is measured; None measures none.
        overwrite: Whether the sweep of another model, or any other file of that name, may be replaced.
        loading: How the model is loaded.
    """

    model: str
    methods: Sequence[VBPConfig]
    ratios: Sequence[float] | None
    evaluation: EvaluationRequest
    output: Path
    macs: Sequence[float] | None = None
    levers: Sequence[str] | None = None
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
        table: All rows of the file, of earlier runs too.
    """

    rows: list[Row]
    files: list[Path]
    continued: int
    table: list[Row]


def run_sweep(request: SweepRequest, reporter: Reporter) -> SweepResult:
    """Run :func:`hf_vbp.sweep` on a checkpoint and images that are given by name, and write a table and a plot.

    The table is written after each group of models. Rows in it that belong to the same model, statistics, evaluation
    images and method are kept and not computed again, so an interrupted sweep continues. Statistics that the sweep
    gathers are kept in the same folder, so that it does not repeat the pass either. Measurements of merged tokens are
    written into the file of the statistics, also into that of ``statistics``.

    Args:
        request: The request.
        reporter: Receives progress updates.

    Raises:
        OutputError: The output cannot be written, or holds a sweep of another model and ``overwrite`` is false.
        HfVbpError: Any other failure, raised before expensive work where that is possible.
    """
    if request.data is None and request.statistics is None:
        raise DataError("Nothing to calibrate on: give --data, or --statistics from an earlier `hf-vbp stats`.")
    tasks = sweep_tasks(request.methods, request.ratios, macs=request.macs, levers=request.levers)
    inputs = input_sources(
        model=request.model, data=request.data, evaluation=request.evaluation.images, statistics=request.statistics
    )
    if request.evaluation.bank is not None:
        inputs["the folder of the bank"] = request.evaluation.bank.source
    names = (TABLE_NAME, PLOT_NAME, SWEEP_RESULTS_NAME)
    earlier = _earlier(request)
    with files_in_folder(request.output, names, request.overwrite or bool(earlier.rows), inputs):
        if not can_draw():
            reporter.say(f"No plot will be drawn: matplotlib is not installed. Install it with: {INSTALL}")
        with lever_warnings(reporter):
            return _sweep(request, tasks, earlier, reporter)


def _earlier(request: SweepRequest) -> SweepTable:
    path = request.output / TABLE_NAME
    if request.overwrite or not path.is_file():
        return SweepTable(path)
    table = SweepTable.load(path)
    add_details(table.rows, read_rows(request.output / SWEEP_RESULTS_NAME))
    return table


def _sweep(request: SweepRequest, tasks: list[VBPConfig], table: SweepTable, reporter: Reporter) -> SweepResult:
    loaded = request.loading.load(request.model)
    calibration = None if request.data is None else CalibrationImages(request.data, loaded)
    prepared = check_sweep(loaded.model, tasks, None if calibration is None else calibration.first)
    task = check_evaluation_request(request.evaluation, loaded, compared=True)
    images, measures = open_evaluation(request.evaluation, loaded, task, reporter)
    identity = {"weights": model_digest(loaded.model), "evaluation": _evaluation_digest(images, measures)}
    table.check_same(identity)
    prepared.verified()
    tasks = reachable_tasks(prepared, tasks, lambda reason: reporter.say(f"Left out: {reason}"))
    source = None if calibration is None else calibration.source
    # Before the pass, where the statistics are not given; those of a file may hold measurements.
    if request.statistics is None:
        check_images(prepared, tasks, source)
    statistics = _statistics(request, calibration, prepared, table, reporter)
    identity["statistics"] = statistics_digest(statistics)[:16]
    table.check_same(identity)
    check_images(prepared, tasks, source, statistics)
    missing = [task for task in tasks if table.find(task, request.latency) is None]
    continued = len(tasks) - len(missing)
    if continued:
        _report_kept(continued, len(tasks), table, reporter)
    groups = -(-len(missing) // MODELS_IN_MEMORY)
    total = None if images.images is None else groups * images.images
    file = request.statistics or request.output / KEPT_NAME
    stage = reporter.stage(f"Evaluation of {counted(len(missing), 'model')}", total) if missing else nullcontext()
    with stage as progress:
        made = sweep_rows(
            prepared,
            statistics,
            missing,
            images.loader,
            measures=measures,
            data=source,
            latency=request.latency,
            progress=progress,
            on_noise=lambda error: reporter.warn(f"The latency of some rows is left out. {error}"),
            on_measured=lambda measured: keep_measurements(file, measured, reporter),
        )
        for start, rows in zip(range(0, len(missing), MODELS_IN_MEMORY), made, strict=True):
            methods: list[Row] = [{}, *map(method_columns, missing[start : start + MODELS_IN_MEMORY])]
            named = {"model": Path(request.model).name, **identity}
            name_classes({str(number): row for number, row in enumerate(rows)}, prepared.model)
            table.add(
                [
                    flat(row, **method, **named, loses_most=describe_losses(rows[0], row))
                    for row, method in zip(rows, methods, strict=True)
                ]
            )
            _write_results(request, table)
    with_skipped(images, reporter)
    if request.evaluation.bank is not None:
        with_skipped(measures.bank, reporter)
    files = [table.path, _write_results(request, table), *_plot(request, table)]
    return SweepResult(_asked(table, tasks), files, continued, table.rows)


def _report_kept(continued: int, tasks: int, table: SweepTable, reporter: Reporter) -> None:
    kept = "row is kept" if tasks == 1 else f"rows {'is' if continued == 1 else 'are'} kept"
    reporter.say(f"{continued} of {tasks} {kept} from {table.path}.")
    if lacks_details(table.rows):
        reporter.say(
            f"Kept rows lack the figures of each class or output, which {SWEEP_RESULTS_NAME} of the earlier run held: "
            "it is missing or damaged. Pass --overwrite to measure them again."
        )


def _evaluation_digest(images: Any, measures: Measures) -> str:
    """Return a short hash of the evaluation images and, where there is one, of the bank of neighbors."""
    if measures.bank is None:
        return description_digest(images.provenance)
    known = getattr(measures.bank, "images", None)
    number = measures.neighbors if known is None else number_of_neighbors(measures.neighbors, known)
    bank = {"bank": describe_images(measures.bank), "neighbors": number}
    return description_digest({**images.provenance, **bank})


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
    stage = reporter.stage if earlier is None else partial(late_stage, reporter)
    with stage("Statistics", images.images) as progress:
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
    with late_stage(reporter, "Statistics", None if images is None else images.images) as progress:
        return sweep_statistics(prepared, request.methods, source, statistics, progress=progress)


def _asked(table: SweepTable, tasks: Sequence[VBPConfig]) -> list[Row]:
    """Return the rows of a request: the dense model, then the tasks in their order."""
    dense = [row for row in table.rows if is_dense(row)]
    found = [table.find(task, None) for task in tasks]
    return [*dense, *(row for row in found if row is not None)]


def _write_results(request: SweepRequest, table: SweepTable) -> Path:
    """Write the rows as JSON, with the figures of each class."""
    path = request.output / SWEEP_RESULTS_NAME
    content = describe_sweep(Path(request.model).name, table.rows)
    try:
        atomic_write(path, sweep_to_json(content))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. The table is in {table.path}.") from error
    return path


def _plot(request: SweepRequest, table: SweepTable) -> list[Path]:
    if not can_draw():
        return []
    path = request.output / PLOT_NAME
    try:
        atomic_write(path, draw(table.rows, f"{Path(request.model).name}, no training"))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}. The table is in {table.path}.") from error
    return [path]
