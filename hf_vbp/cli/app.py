"""The entry point: builds the commands, and turns errors into one sentence and exit code 2."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from hf_vbp._packages import is_missing_package, missing_package
from hf_vbp._progress import one_line
from hf_vbp.cli.console import escaped, print_error
from hf_vbp.cli.groups import HELP
from hf_vbp.errors import HfVbpError

DEBUG = "HF_VBP_DEBUG"
# Some messages repeat the content of a file.
_LONGEST_MESSAGE = 2000


def build() -> typer.Typer:
    """Return the command line with all its sub-commands."""
    from hf_vbp._version import __version__
    from hf_vbp.cli import audit, evaluate, export, finetune, inspect, plan, prune, push, recipes, stats, sweep, ui

    app = typer.Typer(
        name="hf-vbp",
        help="Prune the MLPs of a Hugging Face vision transformer in one shot (Variance-Based Pruning).",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings=HELP,
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
        debug: bool = typer.Option(False, "--debug", help=f"Show the traceback of an error; also {DEBUG}=1."),
    ) -> None:
        """Prune the MLPs of a Hugging Face vision transformer in one shot (Variance-Based Pruning)."""
        if debug:
            os.environ[DEBUG] = "1"

    app.command("inspect")(inspect.inspect)
    app.add_typer(stats.app, name="stats")
    app.command("plan")(plan.plan)
    app.command("prune")(prune.prune)
    app.command("sweep")(sweep.sweep)
    app.command("evaluate")(evaluate.evaluate)
    app.command("finetune")(finetune.finetune)
    app.command("export")(export.export)
    app.command("recipes")(recipes.recipes)
    app.command("push")(push.push)
    app.command("audit")(audit.audit)
    app.command("ui")(ui.ui)
    return app


def main() -> None:
    """Run the command line."""
    run(build(), "hf-vbp")


def run(app: typer.Typer, name: str) -> None:
    """Run commands; an error ends as one sentence on standard error and exit code 2.

    Args:
        app: The commands.
        name: The name of the program, which the sentence begins with.
    """
    try:
        with _ended_by_sigterm():
            app()
    except _Terminated as end:
        print_error(f"{name}: terminated; no partial output was left")
        sys.exit(end.code)
    except HfVbpError as error:
        _end(name, one_line(error, _LONGEST_MESSAGE))
    except KeyboardInterrupt:
        print_error(f"{name}: interrupted; no partial output was left")
        sys.exit(130)
    except Exception as error:  # The last resort: one sentence for users; developers can request the traceback.
        if isinstance(error, ImportError) and is_missing_package(error):
            _end(name, str(missing_package(error, "This command")))
        _end(
            name,
            f"unexpected {type(error).__name__}: {one_line(error)}. "
            f"Run the command again with {DEBUG}=1 to see the traceback, and report it with the versions in use.",
        )
    finally:
        _leave_process_group()


def _end(name: str, sentence: str) -> NoReturn:
    _show_traceback()
    print_error(f"{name}: {sentence}")
    sys.exit(2)


class _Terminated(SystemExit):
    """SIGTERM as an exception, so that a command that a scheduler ends cleans up as after Ctrl-C."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        # Only once: a second signal must not interrupt the cleanup.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.getpid() != process:
            # A forked worker inherits the handler, but has nothing to clean up.
            os._exit(128 + number)
        raise _Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        # None is a handler that was not installed from Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _show_traceback() -> None:
    if os.environ.get(DEBUG, "") not in ("", "0"):
        sys.stderr.write(escaped(traceback.format_exc()))


def _leave_process_group() -> None:
    # A process of a launcher that ends with its group open may be torn down by the threads of the group.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
