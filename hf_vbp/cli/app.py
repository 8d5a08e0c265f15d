"""The entry point: builds the commands, and turns the package's errors into one sentence and exit code 2."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
        with _ended_by_sigterm():
            app()
    except _Terminated as end:
        standard_error().print(f"{name}: terminated; nothing half-written was left behind", markup=False)
        sys.exit(end.code)
    except HfVbpError as error:
        standard_error().print(f"{name}: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        standard_error().print(f"{name}: interrupted; nothing half-written was left behind", markup=False)
        sys.exit(130)
    finally:
        _leave_the_other_processes()


class _Terminated(SystemExit):
    """SIGTERM as an exception, so that a command that is ended by a scheduler cleans up as after Ctrl-C."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        # Once is enough: a second signal must not interrupt the cleaning up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getpid() != process:
            # A forked worker inherits the handler, but has nothing of its own to clean up.
            os._exit(128 + number)
        raise _Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None stands for a handler that was not installed from Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _leave_the_other_processes() -> None:
    # Started by a launcher, a process that ends with its group open may be torn down by the group's threads.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
