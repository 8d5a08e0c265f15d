"""``hf-vbp evaluate``: how good a checkpoint is."""

import json as json_module
import sys
from typing import Annotated

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, standard_output, table
from hf_vbp.cli.groups import ImageOptions, ModelOptions, with_groups


@with_groups
def evaluate(
    model: groups.Model,
    data: groups.LabelledData,
    images: ImageOptions,
    loading: ModelOptions,
    base: Annotated[str | None, typer.Option(help="Compare with this model on the same images.")] = None,
    base_revision: Annotated[str | None, typer.Option(help="Revision of the base model.")] = None,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Evaluate a dense or pruned checkpoint on labelled images."""
    from hf_vbp.workflow.evaluate import run_evaluate

    found = run_evaluate(
        model,
        images.request(data),
        Reporter(quiet=quiet),
        base=base,
        revision=loading.revision,
        base_revision=base_revision,
        dtype=loading.dtype,
        device=loading.device,
    )
    if json:
        sys.stdout.write(json_module.dumps(found, indent=2) + "\n")
        return
    rows = []
    for name in ("base", "model"):
        if name in found:
            row = found[name]
            interval = " to ".join(str(percent(bound)) for bound in row.get("top1_interval", ()))
            agreement, kl = percent(row.get("agreement")), row.get("kl")
            label = base if name == "base" else model
            figures = (percent(row.get("top1")), interval, percent(row.get("top5")), agreement)
            rows.append((label, row["images"], *figures, None if kl is None else f"{kl:.4f}"))
    columns = ("", "images", "top-1", "95 % interval", "top-5", "agreement", "KL")
    standard_output().print(table("Evaluation", columns, rows))
