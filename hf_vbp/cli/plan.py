"""``hf-vbp plan``: choose the kept neurons without changing the model."""

from pathlib import Path
from typing import Annotated

from hf_vbp.cli import groups
from hf_vbp.cli.console import percent, print_json_text, print_lines, print_table
from hf_vbp.cli.groups import STATISTICS, BudgetOptions, MethodOptions, SourceOptions, option, with_groups

_BAR = 10


@with_groups
def plan(
    model: groups.Model,
    *,
    statistics: Annotated[Path, option(STATISTICS, "--statistics", help="File of statistics from `hf-vbp stats`.")],
    method: MethodOptions,
    budget: BudgetOptions,
    source: SourceOptions,
    output: groups.OptionalOutput = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
) -> None:
    """Choose the kept hidden neurons from statistics and a budget."""
    from hf_vbp.workflow.statistics_command import run_plan

    config = budget.config(method)
    made = run_plan(model, statistics, config, output, loading=source.loading(), overwrite=overwrite)
    if json:
        print_json_text(made.to_json())
        return
    rows = []
    for site, error in zip(made.sites, made.predicted["relative_output_error_by_site"], strict=True):
        kept = site.width / site.intermediate_size
        bar = "#" * round(kept * _BAR)
        rows.append((site.name, site.intermediate_size, site.width, percent(kept), percent(error), bar))
    title = f"{percent(made.ratio)} of the hidden neurons removed"
    title += f" ({made.config.criterion}, {made.config.compensation}, {made.config.scope})"
    print_table(title, ("MLP", "dense", "width", "kept", "predicted error", "|"), rows)
    print_lines(
        [
            f"Predicted output error of all MLPs: {percent(made.predicted['relative_output_error'])}, of the "
            f"calibration images, {'exact' if made.predicted['exact'] else 'as if neurons were uncorrelated'}.",
            *([] if output is None else [f"Saved the plan to {output}."]),
        ]
    )
