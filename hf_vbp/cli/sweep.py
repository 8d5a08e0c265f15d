"""``hf-vbp sweep``: accuracy against ratio, from one pass of statistics."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, scaled, standard_output, table
from hf_vbp.cli.groups import EvaluationOptions, ImageOptions, MethodOptions, ModelOptions, with_groups


@with_groups
def sweep(
    model: groups.Model,
    data: groups.Data,
    eval_data: groups.EvalData,
    output: groups.Output,
    method: MethodOptions,
    images: ImageOptions,
    evaluation: EvaluationOptions,
    loading: ModelOptions,
    ratios: Annotated[str, typer.Option(help="start:stop:step, or a list such as 0.1,0.3.")] = "0.1:0.7:0.1",
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Prune at many ratios and show how accuracy falls: a table, a CSV file and a plot."""
    from hf_vbp.workflow.sweep_command import SweepRequest, parse_ratios, run_sweep, sweep_output, write_sweep

    wanted = parse_ratios(ratios)
    request = SweepRequest(
        model=model,
        config=method.config(),
        ratios=wanted,
        data=images.request(data),
        evaluation=evaluation.request(eval_data, images),
        revision=loading.revision,
        dtype=loading.dtype,
        device=loading.device,
    )
    name = f"{request.config.criterion}, {request.config.compensation}"
    with sweep_output(request, output, overwrite=overwrite):
        rows = run_sweep(request, Reporter(quiet=quiet))
        files = write_sweep(rows, output, f"{Path(model).name}, {name}")
    if json:
        sys.stdout.write(json_module.dumps(rows, indent=2) + "\n")
        return
    parameters, macs = (scaled(*(row[key] for row in rows)) for key in ("parameters", "macs"))
    retention = [percent(row["top1"] / rows[0]["top1"]) if rows[0].get("top1") else None for row in rows]
    removed, top1 = [percent(row["ratio"], 0) for row in rows], [percent(row.get("top1")) for row in rows]
    shown = list(zip(removed, parameters, macs, top1, retention, strict=True))
    console = standard_output()
    columns = ("removed", "parameters", "MACs", "top-1", "retention")
    console.print(table(f"{name}, no training", columns, shown))
    console.print(f"Written: {', '.join(map(str, files))}", markup=False)
