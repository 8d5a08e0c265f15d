"""``hf-vbp stats``: gather, show and merge statistics."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, standard_output, table
from hf_vbp.cli.groups import ImageOptions, MethodOptions, ModelOptions, with_groups


class _GatherByDefault(TyperGroup):
    """``hf-vbp stats MODEL ...`` gathers; ``show`` and ``merge`` are named."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["gather", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        # Options may come before the model; without this the group would take them for its own.
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["gather", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_GatherByDefault,
    no_args_is_help=True,
    help="Gather the statistics of a model: hf-vbp stats MODEL --data ... --output FILE. Also: show, merge.",
)


@app.command("gather")
@with_groups
def gather(
    model: groups.Model,
    data: groups.Data,
    output: groups.Output,
    method: MethodOptions,
    images: ImageOptions,
    loading: ModelOptions,
    halves: Annotated[
        bool, typer.Option("--halves", help="Also gather covariances of half of the images, to choose regularization.")
    ] = False,
    precompute: Annotated[
        bool, typer.Option(help="Also run the expensive part of the criterion, which every plan can use.")
    ] = True,
    resume: Annotated[Path | None, typer.Option(help="Folder for the state; a killed pass continues from it.")] = None,
    resume_every: Annotated[int, typer.Option(help="Batches between two writes of the state.", min=1)] = 50,
    max_bytes: Annotated[int | None, typer.Option(help="Refuse to start when the sums would take more.")] = None,
    overwrite: groups.Overwrite = False,
    quiet: groups.Quiet = False,
) -> None:
    """Gather the statistics of a model in one pass (the default: `hf-vbp stats MODEL ...`)."""
    from hf_vbp.distributed import is_main_process
    from hf_vbp.workflow.statistics_command import StatsRequest, run_stats

    request = StatsRequest(
        model=model,
        data=images.request(data),
        output=output,
        config=method.config(),
        halves=halves,
        precompute=precompute,
        revision=loading.revision,
        dtype=loading.dtype,
        device=loading.device,
        overwrite=overwrite,
        resume=resume,
        resume_every=resume_every,
        max_bytes=max_bytes,
    )
    statistics = run_stats(request, Reporter(quiet=quiet))
    if is_main_process():
        _show(statistics, str(output))


@app.command("show")
def show(file: Annotated[Path, typer.Argument(help="A file of statistics.")]) -> None:
    """Show the content of a file of statistics, site by site."""
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

    _show(ActivationStatistics.load(file), str(file))


@app.command("merge")
def merge(
    files: Annotated[list[Path], typer.Argument(help="Two or more files of statistics of the same model.")],
    output: groups.Output,
    overwrite: groups.Overwrite = False,
) -> None:
    """Join statistics that were gathered on different images of one data set."""
    from hf_vbp.workflow.statistics_command import run_merge

    merged = run_merge(files, output, overwrite=overwrite)
    _show(merged, str(output))


def _show(statistics: Any, name: str) -> None:
    from hf_vbp.statistics.split_halves import halves_agreement
    from hf_vbp.statistics.table import site_rows

    rows = [
        (
            row.name,
            row.width,
            row.tokens,
            percent(row.nearly_constant),
            f"{row.smallest_variance:.3g}",
            f"{row.largest_variance:.3g}",
        )
        for row in site_rows(statistics)
    ]
    columns = ("MLP", "width", "tokens", "nearly constant", "smallest variance", "largest variance")
    console = standard_output()
    curve = statistics.sites[0].curve
    caption = None if curve is None else f"with elimination curves ({curve.options.get('metric')} metric)"
    title = f"{name}: {statistics.images} images, {statistics.tokens} tokens"
    console.print(table(title, columns, rows, caption=caption))
    agreement = halves_agreement(statistics)
    if agreement is not None:
        shown = [(percent(item.ratio, 0), percent(item.kept), percent(item.pruned)) for item in agreement.overlaps]
        caption = (
            f"rank correlation of the variances {agreement.rank_correlation:.4f}; "
            f"lowest {agreement.lowest_site_rank_correlation:.4f} at {agreement.lowest_site}"
        )
        heads = ("ratio", "kept by both", "removed by both")
        console.print(table("Split-half agreement", heads, shown, caption=caption))
