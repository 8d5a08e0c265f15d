"""``hf-vbp evaluate``: measure a checkpoint on images."""

from typing import Annotated, Any

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json, print_lines, print_lost_classes, print_table
from hf_vbp.cli.groups import EVALUATION, ModelOptions, option, with_groups
from hf_vbp.cli.label_options import LabelledImageOptions
from hf_vbp.cli.neighbor_options import NeighborOptions


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
    nearest: NeighborOptions,
    loading: ModelOptions,
    json: groups.Json = False,
    quiet: groups.Quiet = False,
) -> None:
    """Evaluate a dense or pruned checkpoint on images, labelled where the model has classes."""
    from hf_vbp.workflow.evaluate import run_evaluate

    found = run_evaluate(
        model,
        images.request(data),
        Reporter(quiet=quiet),
        base=base,
        base_revision=base_revision,
        bank=nearest.request(images),
        neighbors=nearest.neighbors,
        loading=loading.loading(),
    )
    if json:
        print_json(found)
        return
    show(found, {"base": base or "", "model": model})


def show(found: dict[str, Any], names: dict[str, str]) -> None:
    """Print the figures of the models; their names above the tables, since paths would leave no room for figures.

    Args:
        found: The result of the evaluation.
        names: The models as the user named them.
    """
    from hf_vbp.results.named_figures import figure_rows

    title = f"Evaluation on {found['model']['images']} images"
    models = [name for name in ("base", "model") if name in found]
    print_lines(f"{name}: {names[name]}" for name in models)
    if any(key in found[name] for name in models for key in ("top1", "kl")):
        rows = [(name, *_accuracies(found[name])) for name in models]
        print_table(title, ("", "top-1", "95 % interval", "top-5", "agreement", "KL", "ECE"), rows)
    print_lost_classes(found.get("base", {}), found["model"])
    others = figure_rows(found, models)
    if others:
        print_table(title, ("", *models), others)


def _accuracies(row: dict[str, Any]) -> tuple[str | None, ...]:
    interval = " to ".join(f"{100 * bound:.1f}" for bound in row.get("top1_interval", ()))
    kl = None if "kl" not in row else f"{row['kl']:.4f}"
    shares = [percent(row.get(name)) for name in ("top1", "top5", "agreement", "ece")]
    return shares[0], interval, *shares[1:3], kl, shares[3]
