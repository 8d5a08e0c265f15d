"""``hf-vbp plan``: choose the kept neurons without changing the model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hf_vbp.cli import groups
from hf_vbp.cli.budget_options import BudgetOptions, LatencyConditions
from hf_vbp.cli.console import Reporter, percent, print_json_text, print_lines, print_table, scaled, speedup
from hf_vbp.cli.groups import (
    LATENCY,
    STATISTICS,
    MethodOptions,
    SourceOptions,
    option,
    with_groups,
)
from hf_vbp.results.cost_part import of_part

if TYPE_CHECKING:
    from hf_vbp.pruning.plan import PruningPlan

_BAR = 10


@with_groups
def plan(
    model: groups.Model,
    *,
    statistics: Annotated[Path, option(STATISTICS, "--statistics", help="File of statistics from `hf-vbp stats`.")],
    method: MethodOptions,
    budget: BudgetOptions,
    latency: Annotated[bool, option(LATENCY, "--latency", help="Measure the latency of the plan.")] = False,
    conditions: LatencyConditions,
    source: SourceOptions,
    device: groups.Device = None,
    output: groups.OptionalOutput = None,
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
        loading=replace(source.loading(), device=device),
        latency=conditions.single() if latency else None,
        threads=conditions.threads,
        overwrite=overwrite,
    )
    if json:
        print_json_text(made.to_json())
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
    print_table(title, ("MLP", "dense", "width", "kept", "predicted error", "|"), rows)
    if made.merged_tokens:
        print_lines([f"Tokens merged before each block: {', '.join(map(str, made.merged_tokens))}."])
    print_table(
        f"Cost{of_part(made.cost_part)}", ("", "dense", "pruned", "kept"), _cost_rows(made), caption=_budget(made)
    )
    print_lines(
        [
            f"Predicted output error of the MLPs: {percent(made.predicted['relative_output_error'])}, of the "
            f"calibration images, {_certainty(made)}.",
            *([] if output is None else [f"Saved the plan to {output}."]),
        ]
    )


def _certainty(made: "PruningPlan") -> str:
    if made.predicted["exact"]:
        return "exact"
    if made.config.requires.covariances:
        return "after the refit on images; without it the error is much larger, since a normalization mixes neurons"
    return "as if neurons were uncorrelated"


def _cost_rows(made: "PruningPlan") -> list[tuple[Any, ...]]:
    from hf_vbp.costs.latency import describe_conditions

    dense, pruned = made.cost["dense"], made.cost["pruned"]
    rows: list[tuple[Any, ...]] = []
    for name, key, unit in (("parameters", "parameters", ""), ("MACs", "macs", ""), ("weights", "bytes", "B")):
        shown = [f"{text}{unit}" for text in scaled(dense[key], pruned[key])]
        rows.append((name, *shown, percent(pruned[key] / dense[key])))
    if made.latency:
        times = [f"{made.latency[key]:.2f} ms" for key in ("dense_ms", "pruned_ms")]
        rows.append((f"latency, {describe_conditions(made.latency)}", *times, f"speed {speedup(made.latency)}"))
    return rows


def _budget(made: "PruningPlan") -> str:
    from hf_vbp.config.budget import COSTS

    budget = made.budget
    asked = budget.asked if budget.milliseconds is not None else percent(budget.share)
    verb = "removed" if budget.removes else "kept"
    return f"budget: {COSTS[budget.kind]}, {asked} asked, {percent(made.achieved)} {verb}"
