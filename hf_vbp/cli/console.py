"""What the command line shows: progress on standard error, tables on standard output, errors as one sentence."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

ProgressCallback = Callable[[int, "int | None"], None]


def standard_output() -> Console:
    """Return the console for what a command is asked for."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def standard_error() -> Console:
    """Return the console for progress, remarks and errors."""
    return Console(file=sys.stderr, highlight=False)


class Reporter:
    """Shows the stages of a long command with the time left, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = standard_error()
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Print one remark."""
        if not self._quiet:
            self._console.print(text, markup=False)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[ProgressCallback]:
        """Show one stage; the callback takes what is done and, where known, of how much."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, disable=self._quiet, transient=False) as progress:
            task = progress.add_task(title, total=total)

            def update(done: int, known_total: int | None = None) -> None:
                progress.update(task, completed=done, total=known_total if known_total is not None else total)

            yield update


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str | None = None) -> Table:
    """Return a table whose first column is text and whose other columns are figures."""
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def percent(fraction: float | None, digits: int = 1) -> str | None:
    """Return a fraction as people read it."""
    return None if fraction is None else f"{100 * fraction:.{digits}f} %"


def scaled(*numbers: float) -> list[str]:
    """Return numbers of parameters or MACs in the unit that suits the first: G, M or k."""
    unit, size = next(((u, n) for u, n in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if numbers[0] >= n), ("", 1))
    return [f"{number / size:.2f} {unit}".strip() for number in numbers]
