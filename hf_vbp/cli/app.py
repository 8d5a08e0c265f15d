"""The entry point: builds the commands, and turns the package's errors into one sentence and exit code 2."""

import sys

import typer

from hf_vbp.cli.console import standard_error
from hf_vbp.errors import HfVbpError


def build() -> typer.Typer:
    """Return the command line with all its sub-commands."""
    from hf_vbp._version import __version__
    from hf_vbp.cli import evaluate, finetune, inspect, plan, prune, push, stats, sweep

    app = typer.Typer(
        name="hf-vbp",
        help="Prune the MLPs of a Hugging Face vision transformer in one shot (Variance-Based Pruning).",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"hf-vbp {__version__}")
            raise typer.Exit

    @app.callback()
    def _root(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Prune the MLPs of a Hugging Face vision transformer in one shot (Variance-Based Pruning)."""

    app.command("inspect")(inspect.inspect)
    app.add_typer(stats.app, name="stats")
    app.command("plan")(plan.plan)
    app.command("prune")(prune.prune)
    app.command("sweep")(sweep.sweep)
    app.command("evaluate")(evaluate.evaluate)
    app.command("finetune")(finetune.finetune)
    app.command("push")(push.push)
    app.command("pull-check")(push.pull_check)
    return app


def main() -> None:
    """Run the command line."""
    run(build(), "hf-vbp")


def run(app: typer.Typer, name: str) -> None:
    """Run commands, and end as a command line should: one sentence, and an exit code that tells.

    Args:
        app: The commands.
        name: What the sentence begins with.
    """
    try:
        app()
    except HfVbpError as error:
        standard_error().print(f"{name}: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        standard_error().print(f"{name}: interrupted; nothing half-written was left behind", markup=False)
        sys.exit(130)
    finally:
        _leave_the_other_processes()


def _leave_the_other_processes() -> None:
    # Started by a launcher, a process that ends with its group open may be torn down by the group's threads.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
