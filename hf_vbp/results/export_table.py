"""The table of exported files, for the command line and the card."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Cells = tuple[str | None, ...]


def export_cells(rows: Sequence[Row], *, narrow: bool = False) -> tuple[tuple[str, ...], list[Cells]]:
    """Return the head and the rows of the table; columns that no file has a figure for are left out.

    The dense model has a row before that of each file in the same format and precision.

    Args:
        rows: The ``exports`` part of the results.
        narrow: Fit a terminal of 80 columns: names without their folder, units in the head, no speed-ups.
    """
    entries = list(_with_dense(rows))
    threads = sorted({measured["threads"] for _, row in entries for measured in row.get("latency", [])})
    counted = [f"{'ms, ' if narrow else ''}{number} thread{'s' if number > 1 else ''}" for number in threads]
    if narrow:
        head = ["", "MB", "top-1 %", "same %", "differs by", "differs by, scaled", *counted]
        table = [_narrow(name, row, threads) for name, row in entries]
    else:
        head = ["file", "precision", "size", "top-1", "same answer", "difference", "scaled difference", *counted]
        table = [_cells(name, row, threads) for name, row in entries]
    used = [index for index in range(len(head)) if any(row[index] is not None for row in table)]
    return tuple(head[index] for index in used), [tuple(row[index] for index in used) for row in table]


def _with_dense(rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """Yield the name and the figures of each file and, before it, those of the dense model."""
    formats = {row["format"] for row in rows}
    for row in rows:
        if "dense" in row:
            name = "dense" if len(formats) == 1 else f"dense, {row['format']}"
            yield name, {"precision": row["precision"], **row["dense"]}
        yield row["file"], row


def _cells(name: str, row: Row, threads: Sequence[int]) -> list[str | None]:
    measured = {one["threads"]: one for one in row.get("latency", [])}
    figures = [_percent(row.get("top1")), _percent(row.get("agreement")), *_differences(row)]
    times = [_time(measured.get(number)) for number in threads]
    return [name, row["precision"], f"{row['bytes'] / 1e6:.2f} MB", *figures, *times]


def _narrow(name: str, row: Row, threads: Sequence[int]) -> list[str | None]:
    name = name.rpartition("/")[2] if "/" in name else f"{name}, {row['precision']}"
    shares = [None if share is None else f"{100 * share:.1f}" for share in (row.get("top1"), row.get("agreement"))]
    measured = {one["threads"]: _short(one["median_ms"]) for one in row.get("latency", [])}
    return [name, _short(row["bytes"] / 1e6), *shares, *_differences(row), *(measured.get(one) for one in threads)]


def _differences(row: Row) -> list[str | None]:
    names = ("max_abs_difference", "max_scaled_difference")
    return [f"{row[name]:.1g}" if name in row else None for name in names]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 100 else f"{number:.1f}" if number < 1000 else f"{number:.0f}"


def _time(measured: Row | None) -> str | None:
    if measured is None:
        return None
    gain = f" ({measured['speedup']:.2f}x)" if "speedup" in measured else ""
    return f"{measured['median_ms']:.2f} ms{gain}"
