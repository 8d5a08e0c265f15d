"""``hf-vbp sweep``: accuracy against ratio, or of each lever against MACs, from one pass over the images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.budget_options import LatencyConditions
from hf_vbp.cli.console import Reporter, percent, print_json, print_lines, print_table, scaled, speedup
from hf_vbp.cli.groups import (
    BUDGET,
    LATENCY,
    METHOD,
    STATISTICS,
    EvaluationOptions,
    MethodOptions,
    ModelOptions,
    option,
    with_groups,
)
from hf_vbp.cli.label_options import LabelledImageOptions
from hf_vbp.cli.neighbor_options import NeighborOptions


@dataclass(frozen=True)
class PointOptions:
    """The models of a sweep: ratios, or levers at shares of the MACs."""

    panel: ClassVar[str] = BUDGET

    ratios: Annotated[
        str | None,
        typer.Option(
            help="Shares of neurons to remove: start:stop:step, or a list such as 0.1,0.3.",
            show_default="0.1:0.7:0.1",
        ),
    ] = None
    levers: Annotated[
        str | None,
        typer.Option(help="Compare mlp (narrower MLPs), tokens (merged tokens), or mlp,tokens: each alone, and both."),
    ] = None
    macs: Annotated[
        str | None, typer.Option(help="Shares of the MACs to keep, for --levers.", show_default="0.5:0.9:0.1")
    ] = None


@with_groups
def sweep(
    model: groups.Model,
    *,
    data: groups.OptionalData = None,
    images: LabelledImageOptions,
    statistics: Annotated[
        Path | None,
        option(STATISTICS, "--statistics", help="File of statistics from `hf-vbp stats`, in place of --data."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        option(METHOD, "--method", help="criterion+compensation or a preset; may be repeated to compare methods."),
    ] = None,
    method: MethodOptions,
    points: PointOptions,
    eval_data: groups.EvalData,
    evaluation: EvaluationOptions,
    nearest: NeighborOptions,
    latency: Annotated[bool, option(LATENCY, "--latency", help="Measure the latency of each model.")] = False,
    conditions: LatencyConditions,
    loading: ModelOptions,
    output: groups.Output,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
    check_options: groups.CheckOptions = False,
) -> None:
    """Prune at many ratios and show the accuracy at each: a table, a CSV file and a plot.

    Backbones are compared by k nearest neighbors, where --bank or --data has labels; models without classes by the
    output distance from the dense model.

    With --levers, every lever alone and all together at many shares of the MACs; * marks the front: no other model
    is as cheap and as accurate or better.

    Rows of the same model, statistics, images and method that the CSV file already holds are kept, so that an
    interrupted sweep continues.
    """
    from hf_vbp.workflow.evaluation_images import EvaluationRequest
    from hf_vbp.workflow.sweep_arguments import parse_methods, parse_points
    from hf_vbp.workflow.sweep_command import SweepRequest, run_sweep

    asked = parse_points(points.ratios, points.macs, points.levers)
    calibration = images.request(data) if data else None
    bank, evaluated = nearest.request(images), evaluation.request(eval_data, images)
    request = SweepRequest(
        model=model,
        methods=parse_methods(methods or (), method.config()),
        ratios=asked.ratios,
        evaluation=EvaluationRequest(evaluated, bank, calibration, nearest.neighbors),
        output=output,
        macs=asked.macs,
        levers=asked.levers,
        data=calibration,
        statistics=statistics,
        latency=conditions.single() if latency else None,
        overwrite=overwrite,
        loading=loading.loading(),
    )
    if check_options:
        return
    result = run_sweep(request, Reporter(quiet=quiet))
    if json:
        print_json(result.rows)
    else:
        show(result.table, result.files)


def show(rows: list[dict[str, Any]], files: list[Path]) -> None:
    """Print the result of a sweep: one table per method, one of uneven damage and one of the latencies.

    Each is readable at 80 columns.
    """
    dense, pruned = rows[0], rows[1:]
    methods = dict.fromkeys(_method(row) for row in pruned)
    for method in methods:
        of_method = [row for row in pruned if _method(row) == method]
        columns = (_levers if "levers" in of_method[0] else _accuracy)([dense, *of_method])
        title = f"{method}, no training{_bank_of(dense)}"
        print_table(title, list(columns), list(zip(*columns.values(), strict=True)))
    if any("ece" in row for row in rows):
        damage = _damage(rows)
        title = "Calibration error" + (", and the classes that lose most (images)" if "|" in damage else "")
        print_table(title, list(damage), list(zip(*damage.values(), strict=True)))
    if any("latency_ms" in row for row in rows):
        latencies = _latencies(rows)
        print_table("Latency", list(latencies), list(zip(*latencies.values(), strict=True)))
    print_lines([f"Written: {', '.join(map(str, files))}"])


def _bank_of(dense: dict[str, Any]) -> str:
    return f"; {dense['neighbors']} neighbors of {dense['bank_images']:,} images" if "neighbors" in dense else ""


def _method(row: dict[str, Any]) -> str:
    method = f"{row['criterion']} + {row['compensation']}"
    return f"{row['levers'].replace(',', ' + ')}, {method}" if "levers" in row else method


def _points(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns that name each row: its method and its point."""
    methods = ["dense" if row is rows[0] else _method(row) for row in rows]
    if any("levers" in row for row in rows):
        return {"method": methods, "MACs": [percent(row["macs"] / rows[0]["macs"], 0) for row in rows]}
    return {"method": methods, "removed": [percent(row["ratio"], 0) for row in rows]}


def _damage(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of what the mean accuracy hides: calibration error, and the classes that lose most."""
    errors = [percent(row.get("ece")) for row in rows]
    losses = {"|": [row.get("loses_most") for row in rows]} if any("loses_most" in row for row in rows) else {}
    return {**_points(rows), "ECE": errors, **losses}


def _latencies(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the latencies of all rows."""
    levers = any("levers" in row for row in rows)
    marks = {"front": [_mark(row, "on_latency_front") for row in rows]} if levers else {}
    times: dict[str, list[Any]] = {"ms": list(map(_milliseconds, rows)), "speed-up": list(map(_speedup, rows))}
    return {**_points(rows), **times, **marks}


def _mark(row: dict[str, Any], name: str) -> str:
    return "*" if row.get(name) else ""


def _levers(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the dense model and of one combination of levers."""
    dense = rows[0]
    columns: dict[str, list[Any]] = {"MACs": [percent(row["macs"] / dense["macs"]) for row in rows]}
    columns["merged"] = [row.get("merged_tokens", 0) or "" for row in rows]
    columns["removed"] = [percent(row["ratio"], 0) for row in rows]
    columns["weights"] = [f"{size}B" for size in scaled(*(row["bytes"] for row in rows))]
    columns |= _without_classes(rows, intervals=False) if _has_no_classes(rows) else _of_classes(rows)
    columns["front"] = [_mark(row, "on_macs_front") for row in rows]
    return columns


def _accuracy(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the dense model and of one method."""
    columns: dict[str, list[Any]] = {"removed": [percent(row["ratio"], 0) for row in rows]}
    columns["parameters"] = scaled(*(row["parameters"] for row in rows))
    columns["MACs"] = scaled(*(row["macs"] for row in rows))
    if _has_no_classes(rows):
        return {**columns, **_without_classes(rows)}
    if rows[0].get("top1"):
        retained = [percent(row["top1"] / rows[0]["top1"]) for row in rows]
        top1, *others = _of_classes(rows).items()
        return {**columns, **dict([top1]), "retention": retained, **dict(others)}
    return {**columns, **_of_classes(rows)}


def _has_no_classes(rows: list[dict[str, Any]]) -> bool:
    return any("output_distance" in row for row in rows)


def _of_classes(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the columns of the figures of classifiers."""
    columns: dict[str, list[Any]] = {"top-1": [percent(row.get("top1")) for row in rows]}
    columns["agreement"] = [percent(row.get("agreement")) for row in rows]
    columns["KL"] = [None if "kl" not in row else f"{row['kl']:.3f}" for row in rows]
    return columns


def _without_classes(rows: list[dict[str, Any]], *, intervals: bool = True) -> dict[str, list[Any]]:
    """Return the columns of the figures of all other models; the table has room for one interval at most."""
    columns: dict[str, list[Any]] = {}
    if any("knn_top1" in row for row in rows):
        columns["k-NN top-1"] = [_neighbors(row, interval=intervals) for row in rows]
        intervals = False
    columns["output distance"] = [_distance(row, interval=intervals) for row in rows]
    return columns


def _neighbors(row: dict[str, Any], *, interval: bool) -> str | None:
    if "knn_top1" not in row or not interval:
        return percent(row.get("knn_top1"))
    low, high = (100 * row[f"knn_top1_{side}"] for side in ("low", "high"))
    return f"{percent(row['knn_top1'])} ({low:.1f} to {high:.1f})"


def _distance(row: dict[str, Any], *, interval: bool) -> str | None:
    name = "output_distance"
    if name not in row:
        return None
    sides = (f"{name}_{side}" for side in ("low", "high") if interval)
    bounds = [f"{row[side]:.3g}" for side in sides if side in row]
    return f"{row[name]:.3g}" + (f" ({' to '.join(bounds)})" if bounds else "")


def _milliseconds(row: dict[str, Any]) -> str | None:
    return f"{row['latency_ms']:.2f}" if "latency_ms" in row else None


def _speedup(row: dict[str, Any]) -> str | None:
    if "speedup" not in row:
        return None
    return speedup({**row, "speedup_interval": (row["speedup_low"], row["speedup_high"])})
