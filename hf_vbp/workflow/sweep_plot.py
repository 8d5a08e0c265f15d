"""The plot of a sweep."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any, NamedTuple

from hf_vbp.workflow.sweep_front import LOWER, figure_of, is_dense, latency_share, measure_of
from hf_vbp.workflow.sweep_tasks import Row

_NAMES = {
    "top1": "top-1",
    "knn_top1": "k-NN top-1",
    "zero_shot_top1": "zero-shot top-1",
    "agreement": "agreement with the dense model",
    "output_distance": "output distance from the dense model",
}
INSTALL = "pip install 'hf-vbp[plot]'"


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Return the plot of a sweep as PNG: one curve per method or lever, and the dense model as a line.

    Ratios are plotted against the share of removed neurons. Levers are plotted against the share of MACs and, where it
    was measured, of latency, with the front as a line. The axis covers the measured values and their intervals with
    a margin, so that differences are visible.

    Args:
        rows: The rows of a sweep, as the CSV file holds them. The figure that is shown is their
            :func:`~hf_vbp.workflow.sweep_front.measure_of`.
        title: The title.
    """
    from matplotlib.figure import Figure

    measure = measure_of(rows)
    panels = _panels(rows)
    figure = Figure(figsize=(6.4 * len(panels), 4.2), layout="constrained")
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number, xlabel=panel.label, ylabel=_NAMES[measure], title=title)
        _draw_panel(axes, rows, measure, panel)
    image = BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


class _Panel(NamedTuple):
    """One coordinate system: the label of its axis, the value of a row on it, and the mark of its front."""

    label: str
    value: Callable[[Row], float | None]
    front: str = ""


def _panels(rows: Sequence[Row]) -> list[_Panel]:
    if not any("levers" in row for row in rows):
        return [_Panel("share of hidden neurons removed", lambda row: row["ratio"])]
    dense = next(row["macs"] for row in rows if is_dense(row))
    panels = [_Panel("share of the MACs", lambda row: row["macs"] / dense, "on_macs_front")]
    if any("speedup" in row for row in rows):
        panels.append(_Panel("share of the latency", latency_share, "on_latency_front"))
    return panels


def _draw_panel(axes: Any, rows: Sequence[Row], measure: str, panel: _Panel) -> None:
    for name, curve in _curves(rows, measure).items():
        points = sorted((row for row in curve if panel.value(row) is not None), key=panel.value)  # type: ignore[arg-type]
        shares, values = [panel.value(row) for row in points], [row[measure] for row in points]
        bounds = [[row.get(f"{measure}_{side}", row[measure]) for row in points] for side in ("low", "high")]
        errors = [[abs(value - bound) for value, bound in zip(values, side, strict=True)] for side in bounds]
        axes.errorbar(shares, values, yerr=errors, marker="o", markersize=4, capsize=3, label=name)
    front = [(panel.value(row), figure_of(row, measure)) for row in rows if row.get(panel.front)]
    if front:
        ordered = sorted(front, key=lambda point: (point[0] or 0.0, point[1] or 0.0))
        # A step, because there are no models between two of the front.
        axes.plot(*zip(*ordered, strict=True), color="black", linewidth=1, drawstyle="steps-post", label="front")
    dense = next((figure_of(row, measure) for row in rows if is_dense(row)), None)
    if dense is not None:
        axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense")
    columns = (measure, f"{measure}_low", f"{measure}_high")
    shown = [row[column] for row in rows for column in columns if column in row]
    axes.set_ylim(*limits(shown if dense is None else [*shown, dense], share=measure not in LOWER))
    axes.grid(alpha=0.3)
    axes.legend()


def limits(values: Sequence[float], *, share: bool = True) -> tuple[float, float]:
    """Return the range of the axis: the values with a margin of a tenth; that of a share is within 0 and 1.

    Args:
        values: The values.
        share: Whether they are at most 1; otherwise they are distances.
    """
    low, high = min(values), max(values)
    if not share:
        margin = 0.1 * (high - low) or 1.0
        return max(low - margin, -0.02 * (high + margin)), high + margin
    margin = max(0.1 * (high - low), 0.01)
    return max(low - margin, -0.01), min(high + margin, 1.01)


def _curves(rows: Sequence[Row], measure: str) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = {}
    for row in rows:
        if not is_dense(row) and measure in row:
            widths = [f"{name} {row[name]}" for name in ("minimum_width", "round_to") if row.get(name, 1) != 1]
            levers = [row["levers"].replace(",", " + ")] if "levers" in row else []
            name = ", ".join([*levers, f"{row['criterion']} + {row['compensation']}", row["scope"], *widths])
            name += f" {row['options']}" if row.get("options") else ""
            curves.setdefault(name, []).append(row)
    return curves
