"""The table of exported files, for the command line and the card."""

from collections.abc import Mapping, Sequence
from typing import Any

Cells = tuple[str | None, ...]


def export_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[Cells]]:
    """Return the head and the rows of the table; columns that no file has a figure for are left out.

    Args:
        rows: The ``exports`` part of the results.
    """
    threads = sorted({measured["threads"] for row in rows for measured in row.get("latency", [])})
    counted = [f"{number} thread{'s' if number > 1 else ''}" for number in threads]
    head = ["file", "precision", "size", "top-1", "same answer", "difference", "scaled difference", *counted]
    table = [_cells(row, threads) for row in rows]
    used = [index for index in range(len(head)) if any(row[index] is not None for row in table)]
    return tuple(head[index] for index in used), [tuple(row[index] for index in used) for row in table]


def _cells(row: Mapping[str, Any], threads: Sequence[int]) -> list[str | None]:
    measured = {one["threads"]: one for one in row.get("latency", [])}
    top1 = f"{100 * row['top1']:.1f} %" if "top1" in row else None
    size = f"{row['bytes'] / 1e6:.2f} MB"
    scaled = f"{row['max_scaled_difference']:.1g}" if "max_scaled_difference" in row else None
    figures = (f"{100 * row['agreement']:.1f} %", f"{row['max_abs_difference']:.1g}", scaled)
    return [row["file"], row["precision"], size, top1, *figures, *(_time(measured.get(one)) for one in threads)]


def _time(measured: Mapping[str, Any] | None) -> str | None:
    if measured is None:
        return None
    gain = f" ({measured['speedup']:.2f}x)" if "speedup" in measured else ""
    return f"{measured['median_ms']:.2f} ms{gain}"
