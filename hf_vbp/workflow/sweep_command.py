"""``hf-vbp sweep``: a sweep of a checkpoint and images that are given by name, as a table and a plot."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import ConfigurationError, OutputError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.workflow.gather import gather
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.outputs import files_in_folder, input_sources
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig

TABLE_NAME, PLOT_NAME = "sweep.csv", "sweep.png"


MOST_RATIOS = 1000


@dataclass(frozen=True)
class SweepRequest:
    """Arguments of ``hf-vbp sweep``.

    Attributes:
        model: Hub id, folder or ``sample``.
        config: The method; its budget is not used.
        ratios: Shares of hidden neurons to remove.
        data: Calibration images.
        evaluation: Labelled images.
        loading: How the model is loaded.
    """

    model: str
    config: "VBPConfig"
    ratios: Sequence[float]
    data: DataRequest
    evaluation: DataRequest
    loading: Loading = field(default_factory=Loading)


def run_sweep(request: SweepRequest, reporter: Reporter) -> list[dict[str, Any]]:
    """Run :func:`hf_vbp.sweep` on a checkpoint and images that are given by name.

    Args:
        request: The parameters of the job.
        reporter: Receives progress updates.

    Returns:
        The rows of :func:`hf_vbp.sweep`.
    """
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.workflow.sweep import MODELS_IN_MEMORY, sweep

    loaded = request.loading.load(request.model)
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
            if number > MOST_RATIOS:
                raise ConfigurationError(f"--ratios {text} are {number} ratios; at most {MOST_RATIOS} are swept.")
            ratios = [round(start + index * step, 10) for index in range(number)]
        else:
            ratios = [float(part) for part in text.split(",")]
    except ConfigurationError:
        raise
    except (ValueError, OverflowError) as error:
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
