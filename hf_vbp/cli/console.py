"""Terminal output: progress and errors on standard error, tables and JSON on standard output.

Names of files, sites and classes come from other people's files. They are always printed as :class:`rich.text.Text`
made by :func:`literal`, so that neither markup of Rich nor escape sequences of the terminal in them take effect.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from hf_vbp._progress import Progress

# C0 and C1 controls, and the characters that change the direction of text. Line breaks are kept.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS if chr(code) != "\n"}
# JSON itself escapes C0 controls only.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x7F}


def escaped(text: str) -> str:
    """Return a text with control characters as visible escapes (backslash, x, two digits); line breaks are kept."""
    return text.translate(_ESCAPES)


def literal(value: object, style: str = "") -> Text:
    """Return a value as text that Rich prints character by character."""
    return Text(escaped(str(value)), style=style)


def standard_output() -> Console:
    """Return the console for the result of a command."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def standard_error() -> Console:
    """Return the console for progress, remarks and errors."""
    return Console(file=sys.stderr, highlight=False)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output, not wrapped, so that commands in them can be copied."""
    console = standard_output()
    for line in lines:
        console.print(literal(line), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print_json_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_json_text(text: str) -> None:
    """Print JSON text on standard output."""
    sys.stdout.write(text.translate(_JSON_ESCAPES))


def print_error(text: str) -> None:
    """Print an error on standard error."""
    standard_error().print(literal(text, "red"), soft_wrap=True)


class Reporter:
    """Shows the stages of a long command with the remaining time, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = standard_error()
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Print one remark."""
        if not self._quiet:
            self._console.print(literal(text), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, also where progress is not shown."""
        self._console.print(literal(f"Warning: {text}"), soft_wrap=True)

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Progress]:
        """Show one stage; yields a function that takes the number of finished items and, where known, of all."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with ProgressBar(*columns, console=self._console, disable=self._quiet, transient=False) as progress:
            task = progress.add_task(escaped(title), total=total)

            def update(done: int, known_total: int | None = None) -> None:
                progress.update(task, completed=done, total=known_total if known_total is not None else total)

            yield update


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "") -> None:
    """Print a table whose first column is text and whose other columns are figures.

    Args:
        title: Printed above it.
        columns: The heads of the columns; a column ``"|"`` has no head and is text.
        rows: The cells; ``None`` is an empty cell.
        caption: Printed below it.
    """
    table = Table(expand=False)
    for position, column in enumerate(columns):
        if position == 0 or column == "|":
            table.add_column("" if column == "|" else literal(column), overflow="fold")
        else:
            # As narrow as the figures and the words of the head allow, so that the text has the rest of the line.
            words = [*column.split(), *("" if row[position] is None else row[position] for row in rows)]
            width = max(literal(word).cell_len for word in words)
            table.add_column(literal(column), justify="right", overflow="fold", width=width)
    for row in rows:
        table.add_row(*("" if cell is None else literal(cell) for cell in row))
    console = standard_output()
    console.print(literal(title, "italic"))
    console.print(table)
    if caption:
        console.print(literal(caption, "dim"))


def print_lost_classes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Print the classes that lose most accuracy, where there are any.

    Args:
        before: The evaluation of the dense model.
        after: That of the pruned model on the same images.
    """
    from hf_vbp.results.lost_classes import lost_classes

    rows = [(name, images, percent(old), percent(new)) for name, images, old, new in lost_classes(before, after)]
    if rows:
        print_table("Classes that lose most, of at least 10 images", ("", "images", "before", "after"), rows)


def percent(fraction: float | None, digits: int = 1) -> str | None:
    """Return a fraction as a percentage."""
    return None if fraction is None else f"{100 * fraction:.{digits}f} %"


def scaled(*numbers: float) -> list[str]:
    """Return numbers of parameters or MACs in the unit that suits the first: G, M or k."""
    unit, size = next(((u, n) for u, n in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if numbers[0] >= n), ("", 1))
    return [f"{number / size:.2f} {unit}".strip() for number in numbers]


def speedup(measured: Mapping[str, Any]) -> str:
    """Return the speed-up of a latency with its 95 % interval."""
    low, high = measured["speedup_interval"]
    return f"{measured['speedup']:.2f}x ({low:.2f} to {high:.2f})"
