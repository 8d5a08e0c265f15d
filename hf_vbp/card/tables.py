"""Tables of the card in Markdown, and the text of their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_vbp.card import text
from hf_vbp.card.cells import are_figures, scalars
from hf_vbp.card.text import Markdown

LABELS = {
    "halves rank correlation": "rank correlation between the variances of the two halves of the images",
    "halves lowest site rank correlation": "lowest rank correlation of a layer",
    "relative output error": "output error of the MLPs, relative",
}
LEVERS = {"dense": "dense", "mlp": "narrower MLPs alone", "tokens": "merged tokens alone", "both": "both (this model)"}
FRACTIONS = frozenset({"relative_output_error", "agreement", "retention"})
METRICS = {
    "ece": "calibration error (ECE)",
    "agreement": "same answer as the dense model",
    "kl": "KL to the dense model (nats)",
}


@dataclass(frozen=True)
class Table:
    """A Markdown table. Cells are escaped, except those that are Markdown already."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def markdown(self) -> Markdown:
        """The table as Markdown; columns of figures are aligned to the right."""
        columns: list[tuple[str, ...]] = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        rule = ["---:" if are_figures(cells) else "---" for cells in columns]
        header, *rows = ([str(text.foreign(cell)) for cell in cells] for cells in (self.header, *self.rows))
        return Markdown("\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)))


def label(key: str) -> str:
    """Return the name of a figure for readers."""
    plain = key.replace("_", " ")
    return METRICS.get(key, LABELS.get(plain, plain))


def figure(key: str, value: Any) -> str:
    """Return the text of a figure, in percent where it is a share."""
    return text.percent(value) if key in FRACTIONS and value is not None else cell(value)


def cell(value: Any) -> str:
    """Return the text of a value; none is empty."""
    if value is None:
        return ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return text.number(value) if is_number else str(value)


def details(value: Mapping[str, Any]) -> Table | None:
    """Return the scalars of a section, one per row."""
    flat = dict(scalars(value)) | {key: item for key, item in value.items() if isinstance(item, str | bool)}
    rows = tuple((label(key), cell(item)) for key, item in flat.items())
    return Table(("", "value"), rows) if rows else None


def levers_table(rows: Sequence[Mapping[str, Any]], *, tower: bool = False) -> Table | None:
    """Return what each lever costs and keeps: accuracy, size, MACs, and the times at each batch size.

    Args:
        rows: The ``levers`` section of the results.
        tower: Whether weights and MACs are those of the vision tower alone.
    """
    if not rows:
        return None
    batches = sorted({one["batch"] for row in rows for one in row.get("latency", [])})
    labelled = any("top1" in row for row in rows)
    header = (
        "model",
        *(("top-1",) if labelled else ()),
        *(f"{name} of the vision tower" if tower else name for name in ("weights", "MACs")),
        *(f"batch {size} (ms)" for size in batches),
    )
    cells = []
    for row in rows:
        times = {one["batch"]: one for one in row.get("latency", [])}
        accuracy = (text.with_interval(row["top1"], row.get("top1_interval")),) if "top1" in row else ("",)
        measured = (_time(times.get(size)) for size in batches)
        cost = (text.quantity(row["bytes"], "B"), text.quantity(row["macs"]))
        cells.append((LEVERS[row["model"]], *(accuracy if labelled else ()), *cost, *measured))
    return Table(header, tuple(cells))


def _time(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return ""
    gain = f" ({measured['speedup']:.2f}x)" if "speedup" in measured else ""
    return f"{cell(measured['median_ms'])}{gain}"
