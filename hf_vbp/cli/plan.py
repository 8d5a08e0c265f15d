"""``hf-vbp plan``: the kept neurons, without touching the model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import percent, standard_output, table
from hf_vbp.cli.groups import BudgetOptions, MethodOptions, with_groups

_BAR = 30


@with_groups
def plan(
    model: groups.Model,
    statistics: Annotated[Path, typer.Option(help="Statistics from `hf-vbp stats`.")],
    budget: BudgetOptions,
    method: MethodOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", callback=groups.expanded, help="Where to write the plan (JSON)."),
    ] = None,
    revision: groups.Revision = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
) -> None:
    """Choose the kept hidden neurons from statistics and a budget."""
    from hf_vbp.workflow.statistics_command import run_plan

    config = budget.config(method)
    made = run_plan(model, statistics, config, output, revision=revision, overwrite=overwrite)
    if json:
        sys.stdout.write(made.to_json())
        return
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
    console.print(
        f"Predicted output error of all MLPs: {percent(made.predicted['relative_output_error'])}, of the calibration "
        f"images, {'exact' if made.predicted['exact'] else 'as if neurons were uncorrelated'}.",
        markup=False,
    )
    if output is not None:
        console.print(f"Saved the plan to {output}.", markup=False)
