"""``hf-vbp evaluate``: measure the accuracy of a checkpoint."""

from typing import Annotated

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json, print_table
from hf_vbp.cli.groups import EVALUATION, ModelOptions, option, with_groups
from hf_vbp.cli.label_options import LabelledImageOptions


@with_groups
def evaluate(
    model: groups.Model,
    data: groups.LabelledData,
    *,
    images: LabelledImageOptions,
    base: Annotated[
        str | None, option(EVALUATION, "--base", help="Compare with this model on the same images.")
    ] = None,
    base_revision: Annotated[
        str | None, option(EVALUATION, "--base-revision", help="Revision of the base model.")
    ] = None,
    loading: ModelOptions,
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
        base_revision=base_revision,
        loading=loading.loading(),
    )
    if json:
        print_json(found)
        return
    rows = []
    for name in ("base", "model"):
        if name in found:
            row = found[name]
            interval = " to ".join(f"{100 * bound:.1f}" for bound in row.get("top1_interval", ()))
            kl = row.get("kl")
            label = base if name == "base" else model
            figures = (percent(row.get("top1")), interval, percent(row.get("top5")), percent(row.get("agreement")))
            rows.append((label, *figures, None if kl is None else f"{kl:.4f}"))
    images_used = found["model"]["images"]
    columns = ("", "top-1", "95 % interval", "top-5", "agreement", "KL")
    print_table(f"Evaluation on {images_used} images", columns, rows)
