"""``hf-vbp stats``: gather, show and merge statistics."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from hf_vbp.cli import groups
from hf_vbp.cli.console import Reporter, percent, print_json, print_table
from hf_vbp.cli.groups import HELP, STATISTICS, ImageOptions, MethodOptions, ModelOptions, with_groups

if TYPE_CHECKING:
    from hf_vbp.statistics.activation_statistics import ActivationStatistics


class _GatherByDefault(TyperGroup):
    """``hf-vbp stats MODEL ...`` is short for ``hf-vbp stats gather MODEL ...``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["gather", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        # Options may come before the model; without this the group would read them as its own.
        if args and args[0] not in self.commands and args[0] not in HELP["help_option_names"]:
            args = ["gather", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_GatherByDefault,
    no_args_is_help=True,
    context_settings=HELP,
    help="Gather the statistics of a model: hf-vbp stats MODEL --data ... --output FILE. Also: show, merge. "
    "All options: hf-vbp stats gather -h.",
)


@dataclass(frozen=True)
class PassOptions:
    """What the pass gathers beside the sums that the method needs, and how it runs."""

    panel: ClassVar[str] = STATISTICS

    halves: Annotated[
        bool,
        typer.Option(
            "--halves", help="Also gather the covariances of one half of the images, which some regularizations need."
        ),
    ] = False
    precompute: Annotated[
        bool, typer.Option(help="Also run the expensive part of the criterion, whose result every plan can use.")
    ] = True
    resume: Annotated[
        Path | None, typer.Option(help="Folder for the state of the pass; a killed pass continues from it.")
    ] = None
    resume_every: Annotated[int, typer.Option(help="Batches between two writes of the state.", min=1)] = 50
    max_bytes: Annotated[
        int | None,
        typer.Option(
            help="Memory that the sums may take. Where they need more, groups of MLPs are gathered in several passes, "
            "in a folder next to the output.",
            min=1,
        ),
    ] = None


@app.command("gather")
@with_groups
def gather(
    model: groups.Model,
    *,
    data: groups.Data,
    images: ImageOptions,
    method: MethodOptions,
    how: PassOptions,
    loading: ModelOptions,
    output: groups.Output,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
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
        loading=loading.loading(),
        overwrite=overwrite,
        **vars(how),
    )
    statistics = run_stats(request, Reporter(quiet=quiet))
    if is_main_process():
        _show(statistics, str(output), json)


@app.command("show")
def show(file: Annotated[Path, typer.Argument(help="A file of statistics.")], json: groups.Json = False) -> None:
    """Show the content of a file of statistics, site by site."""
    from hf_vbp.statistics.activation_statistics import ActivationStatistics

    _show(ActivationStatistics.load(file), str(file), json)


@app.command("merge")
def merge(
    files: Annotated[list[Path], typer.Argument(help="Two or more files of statistics of the same model.")],
    output: groups.Output,
    overwrite: groups.Overwrite = False,
    json: groups.Json = False,
) -> None:
    """Merge statistics that were gathered on different images of one data set."""
    from hf_vbp.workflow.statistics_command import run_merge

    merged = run_merge(files, output, overwrite=overwrite)
    _show(merged, str(output), json)


def _show(statistics: "ActivationStatistics", name: str, json: bool) -> None:
    from hf_vbp.workflow.statistics_command import describe_statistics_file

    found = describe_statistics_file(statistics)
    if json:
        print_json(found)
        return
    rows = [
        (
            row["name"],
            row["width"],
            row["tokens"],
            percent(row["nearly_constant"]),
            f"{row['smallest_variance']:.3g}",
            f"{row['largest_variance']:.3g}",
        )
        for row in found["sites"]
    ]
    columns = ("MLP", "width", "tokens", "nearly constant", "smallest variance", "largest variance")
    curves = found["elimination_curves"]
    caption = "" if curves is None else f"with elimination curves ({curves.get('metric')} metric)"
    print_table(f"{name}: {found['images']} images, {found['tokens']} tokens", columns, rows, caption=caption)
    halves = found["halves"]
    if halves is not None:
        shown = [
            (percent(item["ratio"], 0), percent(item["kept"]), percent(item["pruned"])) for item in halves["overlaps"]
        ]
        caption = (
            f"rank correlation of the variances {halves['rank_correlation']:.4f}; "
            f"lowest {halves['lowest_site_rank_correlation']:.4f} at {halves['lowest_site']}"
        )
        print_table("Split-half agreement", ("ratio", "kept by both", "removed by both"), shown, caption=caption)
