"""The models of a sweep that no other one dominates: none is as cheap or cheaper, and as accurate or more."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
MEASURES = ("top1", "knn_top1", "zero_shot_top1", "agreement", "output_distance")
"""Figures by which models are compared; the first one that was measured is used."""
LOWER = frozenset({"output_distance"})
"""The figures of which a lower value is better."""
_INSIDE = {
    "knn_top1": ("knn", "top1"),
    "zero_shot_top1": ("zero_shot", "top1"),
    "output_distance": ("output_distance", "mean"),
}
_OF_DENSE = {"agreement": 1.0, "output_distance": 0.0}
CONDITIONS = ("latency_batch", "latency_dtype", "latency_threads", "latency_device_name", "latency_compiled")


def mark_fronts(rows: Sequence[Row]) -> None:
    """Mark the rows on the front of accuracy against MACs, and against measured latency, in place.

    ``on_macs_front`` is set in every row that has an accuracy; ``on_latency_front`` in those with a latency, among the
    rows of the same conditions. :func:`measure_of` chooses the figure that counts as accuracy.

    Args:
        rows: The rows of one model, the dense one with ratio 0, as :func:`hf_vbp.sweep` returns them, or as the table
            holds them.
    """
    measure = measure_of(rows)
    _mark(rows, "on_macs_front", lambda row: row.get("macs"), measure)
    conditions = dict.fromkeys(tuple(row.get(name) for name in CONDITIONS) for row in rows if "latency_ms" in row)
    for one in conditions:
        _mark(
            [row for row in rows if "latency_ms" in row and tuple(row.get(name) for name in CONDITIONS) == one],
            "on_latency_front",
            latency_share,
            measure,
        )


def measure_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the figure by which the rows are compared: the first of :data:`MEASURES` that one has."""
    return next((name for name in MEASURES if any(_measured(row, name) is not None for row in rows)), "agreement")


def figure_of(row: Mapping[str, Any], measure: str) -> float | None:
    """Return the figure of a row; the dense model agrees with itself.

    Args:
        row: A row of :func:`hf_vbp.sweep`, with figures as in ``vbp_results.json``, or of the table, with one column
            for each.
        measure: One of :data:`MEASURES`.
    """
    value = _measured(row, measure)
    return _OF_DENSE.get(measure) if value is None and is_dense(row) else value


def accuracy(row: Mapping[str, Any], measure: str) -> float | None:
    """Return the figure of a row, with another sign where a lower one is better."""
    value = figure_of(row, measure)
    return -value if value is not None and measure in LOWER else value


def latency_share(row: Mapping[str, Any]) -> float | None:
    """Return the share of the dense latency; of two times measured in turns, since times of several runs differ."""
    if is_dense(row):
        return 1.0
    return 1 / row["speedup"] if "speedup" in row else None


def is_dense(row: Mapping[str, Any]) -> bool:
    """Return whether a row is that of the dense model."""
    return "criterion" not in row


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, accuracy) whether no other point has at most its cost and at least its accuracy.

    Equal points are on the front together.
    """
    return [not any(other != own and other[0] <= own[0] and other[1] >= own[1] for other in points) for own in points]


def _measured(row: Mapping[str, Any], measure: str) -> float | None:
    value = row.get(measure)
    if measure in _INSIDE and not isinstance(value, float | int):
        section, name = _INSIDE[measure]
        value = row.get(section, {}).get(name)
    return value


def _mark(rows: Sequence[Row], name: str, cost: Callable[[Row], float | None], measure: str) -> None:
    found = []
    for row in rows:
        row.pop(name, None)
        own = (cost(row), accuracy(row, measure))
        if None not in own:
            found.append((row, own))
    marks = on_front([own for _, own in found])  # type: ignore[misc]
    for (row, _), mark in zip(found, marks, strict=True):
        row[name] = mark
