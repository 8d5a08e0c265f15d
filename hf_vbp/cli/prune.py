"""``hf-vbp prune``: the main job."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, scaled, standard_output, table
from hf_vbp.cli.groups import (
    BudgetOptions,
    EvaluationOptions,
    ImageOptions,
    LatencyConditions,
    MethodOptions,
    ModelOptions,
    with_groups,
)


@with_groups
def prune(
    model: groups.Model,
    output: groups.Output,
    budget: BudgetOptions,
    method: MethodOptions,
    images: ImageOptions,
    evaluation: EvaluationOptions,
    loading: ModelOptions,
    conditions: LatencyConditions,
    data: Annotated[
        str | None, typer.Option("--data", help=f"Calibration images, no labels. {groups.DATA_HELP}")
    ] = None,
    eval_data: Annotated[str | None, typer.Option(help=f"Labelled images to evaluate on. {groups.DATA_HELP}")] = None,
    statistics: Annotated[Path | None, typer.Option(help="Statistics gathered before, instead of --data.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the latency of both models.")] = False,
    plan: Annotated[Path | None, typer.Option(help="Plan from `hf-vbp plan`, in place of a budget.")] = None,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Prune a checkpoint in one shot: statistics, plan, surgery, evaluation, receipt."""
    from hf_vbp.results.record import to_json
    from hf_vbp.workflow.measure import DEFAULT_BATCHES
    from hf_vbp.workflow.prune_command import PruneRequest, run_prune

    request = PruneRequest(
        model=model,
        config=None if plan and not budget.given else budget.config(method, conditions),
        output=output,
        data=images.request(data) if data else None,
        evaluation=evaluation.request(eval_data, images) if eval_data else None,
        statistics=statistics,
        plan=plan,
        threads=conditions.threads,
        revision=loading.revision,
        dtype=loading.dtype,
        device=loading.device,
        overwrite=overwrite,
        latency=conditions.options(DEFAULT_BATCHES) if latency else None,
        command=shlex.join(["hf-vbp", *sys.argv[1:]]),
    )
    results = run_prune(request, Reporter(quiet=quiet))
    if not results:
        return
    if json:
        sys.stdout.write(to_json(results))
    else:
        show(results, output)


def show(results: dict[str, Any], output: Path) -> None:
    """Print the closing table: before, after, what it costs, where it lies and how to load it."""
    evaluation, cost = results.get("evaluation", {}), results["cost"]
    before, after = evaluation.get("dense", {}), evaluation.get("pruned", {})
    rows: list[tuple[Any, ...]] = []
    for name, key in (("top-1", "top1"), ("top-5", "top5")):
        if key in after:
            kept = percent(evaluation.get("retention")) if key == "top1" else None
            rows.append((name, percent(before[key]), percent(after[key]), kept))
    if "agreement" in after:
        rows.append(("agreement with the base model", None, percent(after["agreement"]), None))
    if "kl" in after:
        rows.append(("KL from the base model, nats", None, f"{after['kl']:.3f}", None))
    for kind, part in (("expected", "predicted"), ("observed", "observed")):
        error = results.get(part, {}).get("relative_output_error")
        if error is not None:
            rows.append((f"output error of the MLPs, {kind}", None, percent(error), None))
    for name, key in (("parameters", "parameters"), ("MACs", "macs")):
        left = cost["pruned"][key] / cost["dense"][key]
        rows.append((name, *scaled(cost["dense"][key], cost["pruned"][key]), percent(left)))
    for dense, pruned in latency_pairs(results.get("latency", [])):
        name = f"latency, batch {dense['batch']}, {dense['device']}, {dense['dtype']}"
        times = [f"{row['median_ms']:.2f} ms" for row in (dense, pruned)]
        low, high = pruned["speedup_interval"]
        rows.append((name, *times, f"{pruned['speedup']:.2f}x faster ({low:.2f} to {high:.2f})"))
    plan = results["plan"]
    title = f"{percent(plan['ratio'])} of the hidden neurons removed ({plan['criterion']}, {plan['compensation']})"
    images = after.get("images")
    caption = (
        f"evaluated on {images} images, the same before and after" if images else "not evaluated (no --eval-data)"
    )
    console = standard_output()
    console.print(table(title, ("", "before", "after", "kept"), rows, caption=caption))
    console.print(f"The checkpoint lies in {output}. Load it with", markup=False)
    console.print(f"  import hf_vbp; AutoModelForImageClassification.from_pretrained({str(output)!r})", markup=False)


def latency_pairs(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the latency rows of both models side by side, one pair per batch size."""
    dense = [row for row in rows if row["model"] == "dense"]
    pruned = {row["batch"]: row for row in rows if row["model"] == "pruned"}
    return [(row, pruned[row["batch"]]) for row in dense if row["batch"] in pruned]
