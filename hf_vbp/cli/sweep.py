"""``hf-vbp sweep``: accuracy against ratio, from one pass over the images."""

from pathlib import Path
from typing import Annotated

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json, print_lines, print_table, scaled
from hf_vbp.cli.groups import BUDGET, EvaluationOptions, ImageOptions, MethodOptions, ModelOptions, option, with_groups


@with_groups
def sweep(
    model: groups.Model,
    *,
    data: groups.Data,
    images: ImageOptions,
    method: MethodOptions,
    ratios: Annotated[
        str, option(BUDGET, "--ratios", help="start:stop:step, or a list such as 0.1,0.3.")
    ] = "0.1:0.7:0.1",
    eval_data: groups.EvalData,
    evaluation: EvaluationOptions,
    loading: ModelOptions,
    output: groups.Output,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Prune at many ratios and show the accuracy at each: a table, a CSV file and a plot."""
    from hf_vbp.workflow.sweep_command import SweepRequest, parse_ratios, run_sweep, sweep_output, write_sweep

    wanted = parse_ratios(ratios)
    request = SweepRequest(
        model=model,
        config=method.config(),
        ratios=wanted,
        data=images.request(data),
        evaluation=evaluation.request(eval_data, images),
        loading=loading.loading(),
    )
    name = f"{request.config.criterion}, {request.config.compensation}"
    with sweep_output(request, output, overwrite=overwrite):
        rows = run_sweep(request, Reporter(quiet=quiet))
        files = write_sweep(rows, output, f"{Path(model).name}, {name}")
    if json:
        print_json(rows)
        return
    parameters, macs = (scaled(*(row[key] for row in rows)) for key in ("parameters", "macs"))
    retention = [percent(row["top1"] / rows[0]["top1"]) if rows[0].get("top1") else None for row in rows]
    removed, top1 = [percent(row["ratio"], 0) for row in rows], [percent(row.get("top1")) for row in rows]
    shown = list(zip(removed, parameters, macs, top1, retention, strict=True))
    print_table(f"{name}, no training", ("removed", "parameters", "MACs", "top-1", "retention"), shown)
    print_lines([f"Written: {', '.join(map(str, files))}"])
