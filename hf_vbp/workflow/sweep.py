"""One pass over the images, then many ratios: how accuracy falls as the model shrinks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.gather import gather
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.requests import DataRequest, Reporter

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig

MODELS_IN_MEMORY = 4
MOST_RATIOS = 1000


@dataclass(frozen=True)
class SweepRequest:
    """Arguments of ``hf-vbp sweep``.

    Attributes:
        model: Hub id, folder or ``sample``.
        config: What to remove and how; its ratio is replaced by each of ``ratios``.
        ratios: Shares of hidden neurons.
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
    """Prune at every ratio from one pass of statistics, and evaluate all on the same images.

    Returns:
        One row per ratio, the dense model first with ratio 0: ``ratio``, ``parameters``, ``macs``, and the
        figures of the evaluation.
    """
    from hf_vbp.adapters.prepared import prepare
    from hf_vbp.costs.counts import describe_cost
    from hf_vbp.evaluation.models import evaluate_models
    from hf_vbp.pruning.apply_plan import apply_fitted
    from hf_vbp.pruning.make_plan import fit_plan, rank_sites

    loaded = request.loading.load(request.model)
    prepared = prepare(loaded.model)
    compensation = request.config.make_compensation()
    prepared.check_requirements(f"compensation {compensation.name!r}", compensation.requires)
    images = request.evaluation.open(loaded, "evaluation")
    statistics = gather(prepared, loaded, request.config, reporter, data=request.data)
    rankings = rank_sites(prepared, statistics, request.config)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(request.ratios), MODELS_IN_MEMORY):
        part = request.ratios[start : start + MODELS_IN_MEMORY]
        models = {}
        for ratio in part:
            fitted = fit_plan(prepared, statistics, request.config.with_budget(ratio=ratio), rankings=rankings)
            models[f"{ratio:g}"] = apply_fitted(loaded.model, prepared.sites, fitted)
        with reporter.stage(f"Evaluation of {', '.join(models)}", images.images) as progress:
            found = evaluate_models({"0": loaded.model, **models}, images.loader, reference="0", progress=progress)
        for name, model in {"0": loaded.model, **models}.items():
            if name != "0" or not rows:
                cost = describe_cost(model)
                rows.append({"ratio": float(name), **cost, **found[name].to_dict()})
    return rows


def parse_ratios(text: str) -> list[float]:
    """Read ratios as ``start:stop:step`` (stop included) or as a list ``0.1,0.3,0.5``.

    Raises:
        ConfigurationError: It is neither, or a ratio lies outside (0, 1).
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
        raise ConfigurationError(f"--ratios must lie between 0 and 1 and not be empty, got {text!r}.")
    return ratios


def write_sweep(rows: list[dict[str, Any]], directory: Path, title: str) -> list[Path]:
    """Write the rows as CSV and, where matplotlib is installed, as a plot; return the files."""
    import csv

    directory.mkdir(parents=True, exist_ok=True)
    table = directory / "sweep.csv"
    names = [name for name in rows[-1] if name != "top1_interval"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return [table]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="share of hidden neurons removed", ylabel="top-1", title=title)
    ratios, values = [row["ratio"] for row in rows], [row["top1"] for row in rows]
    errors = [[abs(row["top1"] - row["top1_interval"][side]) for row in rows] for side in (0, 1)]
    axes.errorbar(ratios, values, yerr=errors, marker="o", capsize=3)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    plot = directory / "sweep.png"
    figure.savefig(plot, dpi=150)
    return [table, plot]
