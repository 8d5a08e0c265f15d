"""``hf-vbp sweep``: accuracy against ratio, from one pass of statistics."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, scaled, standard_output, table
from hf_vbp.cli.groups import (
    EvaluationOptions,
    ImageOptions,
    LatencyConditions,
    MethodOptions,
    ModelOptions,
    with_groups,
)


@with_groups
def sweep(
    model: groups.Model,
    eval_data: groups.EvalData,
    output: groups.Output,
    method: MethodOptions,
    images: ImageOptions,
    evaluation: EvaluationOptions,
    loading: ModelOptions,
    conditions: LatencyConditions,
    data: groups.OptionalData = None,
    statistics: Annotated[Path | None, typer.Option(help="Statistics gathered before, instead of --data.")] = None,
    ratios: Annotated[str, typer.Option(help="start:stop:step, or a list such as 0.1,0.3.")] = "0.1:0.7:0.1",
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="criterion+compensation or a preset, in place of --preset; may be repeated."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the latency of each model.")] = False,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Prune at many ratios and show how accuracy falls: a table, a CSV file and a plot.

    Rows of the same model, statistics, images and method that the CSV file already holds are kept, so that an
    interrupted sweep continues.
    """
    from hf_vbp.workflow.sweep_command import SweepRequest, parse_methods, parse_ratios, run_sweep

    request = SweepRequest(
        model=model,
        methods=parse_methods(methods or (), method.config()),
        ratios=parse_ratios(ratios),
        evaluation=evaluation.request(eval_data, images),
        output=output,
        data=images.request(data) if data else None,
        statistics=statistics,
        latency=conditions.options()[0] if latency else None,
        overwrite=overwrite,
        revision=loading.revision,
        dtype=loading.dtype,
        device=loading.device,
    )
    result = run_sweep(request, Reporter(quiet=quiet))
    if json:
        sys.stdout.write(json_module.dumps(result.rows, indent=2) + "\n")
    else:
        show(result.rows, result.files)


def show(rows: list[dict[str, Any]], files: list[Path]) -> None:
    """Print the table of a sweep."""
    dense = rows[0]
    columns: dict[str, list[Any]] = {"removed": [percent(row["ratio"], 0) for row in rows]}
    if len({(row.get("criterion"), row.get("compensation")) for row in rows[1:]}) > 1:
        names = [f"{row['criterion']} + {row['compensation']}" if row["ratio"] else "dense" for row in rows]
        columns = {"method": names, **columns}
    columns["parameters"] = scaled(*(row["parameters"] for row in rows))
    columns["MACs"] = scaled(*(row["macs"] for row in rows))
    columns["top-1"] = [percent(row.get("top1")) for row in rows]
    if dense.get("top1"):
        columns["retention"] = [percent(row["top1"] / dense["top1"]) for row in rows]
    columns["agreement"] = [percent(row.get("agreement")) for row in rows]
    columns["KL"] = [None if "kl" not in row else f"{row['kl']:.3f}" for row in rows]
    if any("latency_ms" in row for row in rows):
        columns["ms"] = [None if "latency_ms" not in row else f"{row['latency_ms']:.2f}" for row in rows]
        columns["speed-up"] = [speedup(row) for row in rows]
    title = ", ".join({f"{row['criterion']}, {row['compensation']}": None for row in rows[1:]})
    console = standard_output()
    console.print(table(f"{title}, no training", list(columns), list(zip(*columns.values(), strict=True))))
    console.print(f"Written: {', '.join(map(str, files))}", markup=False)


def speedup(row: dict[str, Any]) -> str | None:
    """Return the speed-up of a row with its interval."""
    if "speedup" not in row:
        return None
    return f"{row['speedup']:.2f}x ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
