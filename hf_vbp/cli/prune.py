"""``hf-vbp prune``: prune a checkpoint."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hf_vbp.cli import groups
from hf_vbp.cli.budget_options import BudgetOptions, SeveralBatches
from hf_vbp.cli.console import (
    Reporter,
    percent,
    print_json_text,
    print_lines,
    print_lost_classes,
    print_table,
    scaled,
    speedup,
)
from hf_vbp.cli.groups import (
    BUDGET,
    LATENCY,
    STATISTICS,
    EvaluationOptions,
    MethodOptions,
    ModelOptions,
    option,
    with_groups,
)
from hf_vbp.cli.label_options import LabelledImageOptions
from hf_vbp.cli.neighbor_options import NeighborOptions
from hf_vbp.errors import ConfigurationError
from hf_vbp.results.cost_part import of_part

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig


PlanFile = Annotated[
    Path | None,
    option(
        BUDGET,
        "--plan",
        help="Apply this plan from `hf-vbp plan`, with the --statistics it was made from. With --data, MLPs with "
        "a normalization inside are refitted.",
    ),
]


@with_groups
def prune(
    model: groups.Model,
    *,
    data: groups.OptionalData = None,
    images: LabelledImageOptions,
    statistics: Annotated[
        Path | None,
        option(
            STATISTICS,
            "--statistics",
            help="File of statistics from `hf-vbp stats`, in place of --data; with both, --data adds missing "
            "ones, and what is measured of merged tokens is written into the file, for later plans.",
        ),
    ] = None,
    method: MethodOptions,
    budget: BudgetOptions,
    plan: PlanFile = None,
    eval_data: groups.OptionalEvalData = None,
    evaluation: EvaluationOptions,
    nearest: NeighborOptions,
    latency: Annotated[
        bool, option(LATENCY, "--latency", help="Measure the latency of the dense and the pruned model.")
    ] = False,
    conditions: SeveralBatches,
    loading: ModelOptions,
    output: groups.Output,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
    check_options: groups.CheckOptions = False,
) -> None:
    """Prune a checkpoint in one shot: statistics, plan, surgery, evaluation, receipt."""
    from hf_vbp.results.record import to_json
    from hf_vbp.workflow.measure import DEFAULT_BATCHES
    from hf_vbp.workflow.prune_command import PruneRequest, run_prune

    _check_label_map(images, eval_data)
    request = PruneRequest(
        model=model,
        output=output,
        config=_config(budget, method, conditions, plan),
        plan=plan,
        data=images.request(data) if data else None,
        evaluation=evaluation.request(eval_data, images) if eval_data else None,
        bank=nearest.request(images),
        neighbors=nearest.neighbors,
        statistics=statistics,
        loading=loading.loading(),
        overwrite=overwrite,
        latency=conditions.options(DEFAULT_BATCHES) if latency else None,
        threads=conditions.threads,
        command=shlex.join(["hf-vbp", *sys.argv[1:]]),
    )
    if check_options:
        return
    results = run_prune(request, Reporter(quiet=quiet))
    if results and json:
        print_json_text(to_json(results))
    elif results:
        show(results, str(output))


def _check_label_map(images: LabelledImageOptions, eval_data: str | None) -> None:
    if images.label_map and not eval_data:
        raise ConfigurationError(
            "--label-map matches the classes of evaluation images with those of the model, and there are none. Give "
            "--eval-data too, or leave it out."
        )


def _config(
    budget: BudgetOptions, method: MethodOptions, conditions: SeveralBatches, plan: Path | None
) -> "VBPConfig | None":
    if plan is None:
        return budget.config(method, conditions)
    given = [*budget.flags, *method.flags]
    if given:
        raise ConfigurationError(f"--plan holds the budget and the method already; leave out {', '.join(given)}.")
    return None


def show(results: dict[str, Any], output: str) -> None:
    """Print the closing table: figures before and after, cost, and how to load the checkpoint."""
    from hf_vbp.results.named_figures import figure_rows
    from hf_vbp.workflow.how_to_load import how_to_load

    plan = results["plan"]
    title = f"{percent(plan['ratio'])} of the hidden neurons removed ({plan['criterion']}, {plan['compensation']})"
    if "merged_tokens" in results:
        title += f", tokens merged before each block: {', '.join(map(str, results['merged_tokens']))}"
    images = results.get("evaluation", {}).get("pruned", {}).get("images")
    caption = (
        f"evaluated on {images} images, the same before and after" if images else "not evaluated (no --eval-data)"
    )
    rows = [*_evaluation_rows(results), *_cost_rows(results)]
    print_table(title, ("", "before", "after", "kept"), rows, caption=caption)
    figures = figure_rows(results.get("evaluation", {}), ("dense", "pruned"))
    if figures:
        print_table("Figures by kind of output, with 95 % intervals", ("", "before", "after"), figures)
    evaluation = results.get("evaluation", {})
    print_lost_classes(evaluation.get("dense", {}), evaluation.get("pruned", {}))
    print_lines(how_to_load(results, output))


def _evaluation_rows(results: dict[str, Any]) -> list[tuple[Any, ...]]:
    evaluation = results.get("evaluation", {})
    before, after = evaluation.get("dense", {}), evaluation.get("pruned", {})
    rows: list[tuple[Any, ...]] = []
    for name, key in (("top-1", "top1"), ("top-5", "top5")):
        if key in after:
            kept = percent(evaluation.get("retention")) if key == "top1" else None
            rows.append((name, percent(before[key]), percent(after[key]), kept))
    if "ece" in after:
        rows.append(("calibration error (ECE)", percent(before.get("ece")), percent(after["ece"]), None))
    if "agreement" in after:
        rows.append(("agreement with the base model", None, percent(after["agreement"]), None))
    if "kl" in after:
        rows.append(("KL from the base model, nats", None, f"{after['kl']:.3f}", None))
    return rows


def _cost_rows(results: dict[str, Any]) -> list[tuple[Any, ...]]:
    cost = results["cost"]
    rows: list[tuple[Any, ...]] = []
    for part in ("predicted", "observed"):
        error = results.get(part, {}).get("relative_output_error")
        if error is not None:
            rows.append((f"output error of the MLPs, {part}", None, percent(error), None))
    for name, key in (("parameters", "parameters"), ("MACs", "macs")):
        left = cost["pruned"][key] / cost["dense"][key]
        name += of_part(cost.get("part", ""))
        rows.append((name, *scaled(cost["dense"][key], cost["pruned"][key]), percent(left)))
    for dense, pruned in latency_pairs(results.get("latency", [])):
        name = f"latency, batch {dense['batch']}, {dense['device']}, {dense['dtype']}"
        times = [f"{row['median_ms']:.2f} ms" for row in (dense, pruned)]
        rows.append((name, *times, speedup(pruned)))
    return rows


def latency_pairs(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return pairs of latency rows, dense and pruned, one for each batch size."""
    dense = [row for row in rows if row["model"] == "dense"]
    pruned = {row["batch"]: row for row in rows if row["model"] == "pruned"}
    return [(row, pruned[row["batch"]]) for row in dense if row["batch"] in pruned]
