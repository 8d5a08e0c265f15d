"""``hf-vbp plan``: the kept neurons, without touching the model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, scaled, standard_output, table
from hf_vbp.cli.groups import BudgetOptions, LatencyConditions, MethodOptions, with_groups

if TYPE_CHECKING:
    from hf_vbp.pruning.plan import PruningPlan

_BAR = 30


@with_groups
def plan(
    model: groups.Model,
    statistics: Annotated[Path, typer.Option(help="Statistics from `hf-vbp stats`.")],
    budget: BudgetOptions,
    method: MethodOptions,
    conditions: LatencyConditions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=groups.expanded, help="Where to write the plan (JSON)."),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the latency of the plan.")] = False,
    revision: groups.Revision = None,
    device: Annotated[str | None, typer.Option(help="Where to compute and measure, such as cuda or cpu.")] = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Choose the kept hidden neurons from statistics and a budget; show how small and how fast the model becomes."""
    from hf_vbp.workflow.statistics_command import run_plan

    made = run_plan(
        model,
        statistics,
        budget.config(method, conditions),
        output,
        Reporter(quiet=quiet),
        latency=conditions.options()[0] if latency else None,
        threads=conditions.threads,
        revision=revision,
        device=device,
        overwrite=overwrite,
    )
    if json:
        sys.stdout.write(made.to_json())
    else:
        show(made, output)


def show(made: "PruningPlan", output: Path | None) -> None:
    """Print the width of each MLP, and the cost of the model before and after."""
    rows = []
    for site, error in zip(made.sites, made.predicted["relative_output_error_by_site"], strict=True):
        kept = site.width / site.intermediate_size
        bar = "#" * round(kept * _BAR)
        rows.append((site.name, site.intermediate_size, site.width, percent(kept), percent(error), bar))
    title = f"{percent(made.ratio)} of the hidden neurons removed"
    title += f" ({made.config.criterion}, {made.config.compensation}, {made.config.scope})"
    shown = table(title, ("MLP", "dense", "width", "kept", "predicted error", ""), rows)
    shown.columns[-1].justify = "left"
    console = standard_output()
    console.print(shown)
    console.print(cost_table(made))
    console.print(
        f"Predicted output error of all MLPs: {percent(made.predicted['relative_output_error'])}, of the calibration "
        f"images, {'exact' if made.predicted['exact'] else 'as if neurons were uncorrelated'}.",
        markup=False,
    )
    if output is not None:
        console.print(f"Saved the plan to {output}.", markup=False)


def cost_table(made: "PruningPlan") -> Table:
    """Return the table of parameters, MACs, bytes and latency, with the budget as its caption."""
    from hf_vbp.config.budget import COSTS
    from hf_vbp.costs.latency import describe_conditions

    dense, pruned = made.cost["dense"], made.cost["pruned"]
    rows: list[tuple[Any, ...]] = []
    for name, key, unit in (("parameters", "parameters", ""), ("MACs", "macs", ""), ("weights", "bytes", "B")):
        shown = [f"{text}{unit}" for text in scaled(dense[key], pruned[key])]
        rows.append((name, *shown, percent(pruned[key] / dense[key])))
    if made.latency:
        times = [f"{made.latency[key]:.2f} ms" for key in ("dense_ms", "pruned_ms")]
        low, high = made.latency["speedup_interval"]
        faster = f"{made.latency['speedup']:.2f}x faster ({low:.2f} to {high:.2f})"
        rows.append((f"latency, {describe_conditions(made.latency)}", *times, faster))
    budget = made.budget
    asked = budget.asked if budget.milliseconds is not None else percent(budget.share)
    verb = "removed" if budget.removes else "kept"
    caption = f"budget: {COSTS[budget.kind]}, {asked} asked, {percent(made.achieved)} {verb}"
    return table("Cost", ("", "dense", "pruned", "kept"), rows, caption=caption)
