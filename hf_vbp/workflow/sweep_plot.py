"""The plot of a sweep."""

from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO

from hf_vbp.workflow.sweep import Row

INSTALL = "pip install 'hf-vbp[plot]'"


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Return the plot of accuracy against ratio as PNG: one curve per method, and the dense model as a line.

    The axis covers the measured values and their intervals with a margin, so that differences are visible.

    Args:
        rows: The rows of a sweep, as the CSV file holds them. Without labels, agreement is shown.
        title: The title.
    """
    from matplotlib.figure import Figure

    measure = "top1" if any("top1" in row for row in rows) else "agreement"
    names = {"top1": "top-1", "agreement": "agreement with the dense model"}
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="share of hidden neurons removed", ylabel=names[measure], title=title)
    for name, points in _curves(rows, measure).items():
        shares, values = [row["ratio"] for row in points], [row[measure] for row in points]
        bounds = [[row.get(f"{measure}_{side}", row[measure]) for row in points] for side in ("low", "high")]
        errors = [[abs(value - bound) for value, bound in zip(values, side, strict=True)] for side in bounds]
        axes.errorbar(shares, values, yerr=errors, marker="o", markersize=4, capsize=3, label=name)
    dense = next((row.get(measure) for row in rows if row["ratio"] == 0), None)
    dense = 1.0 if dense is None and measure == "agreement" else dense
    if dense is not None:
        axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense")
    columns = (measure, f"{measure}_low", f"{measure}_high")
    shown = [row[column] for row in rows for column in columns if column in row]
    axes.set_ylim(*limits(shown if dense is None else [*shown, dense]))
    axes.grid(alpha=0.3)
    axes.legend()
    image = BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the axis: the values with a margin of a tenth, within 0 and 1."""
    low, high = min(values), max(values)
    margin = max(0.1 * (high - low), 0.01)
    return max(low - margin, -0.01), min(high + margin, 1.01)


def _curves(rows: Sequence[Row], measure: str) -> dict[str, list[Row]]:
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["ratio"]):
        if row["ratio"] > 0 and measure in row:
            widths = [f"{name} {row[name]}" for name in ("minimum_width", "round_to") if row.get(name, 1) != 1]
            name = ", ".join([f"{row['criterion']} + {row['compensation']}", row["scope"], *widths])
            name += f" {row['options']}" if row.get("options") else ""
            curves.setdefault(name, []).append(row)
    return curves
