"""The figures of an evaluation that depend on the kind of output, by their names for tables. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_OF_OUTPUTS = {
    "kl": "KL (nats)",
    "binary_kl": "binary KL (nats)",
    "agreement": "same answer as the dense model",
    "squared_error": "squared error",
    "variance_share": "squared error over the variance",
    "cosine_distance": "1 - cosine",
    "neighbor_kl": "KL of the neighbors (nats)",
    "neighbor_agreement": "same nearest image",
}
_OF_ALL = "output distance (half of squared errors)"
_SHARES = frozenset({"agreement", "neighbor_agreement"})


@dataclass(frozen=True)
class NamedFigure:
    """One figure with its name.

    Attributes:
        name: The name in a table.
        value: The figure.
        interval: Its 95 % interval; None where there is none.
        unit: ``"share"`` (shown as percent), ``"points"`` (a difference of shares) or ``"number"``.
    """

    name: str
    value: float
    interval: Sequence[float] | None = None
    unit: str = "number"

    @property
    def text(self) -> str:
        """The figure with its interval."""
        if self.unit == "share":
            shown, bounds = f"{100 * self.value:.1f} %", [f"{100 * bound:.1f}" for bound in self.interval or ()]
        elif self.unit == "points":
            shown, bounds = f"{100 * self.value:+.1f}", [f"{100 * bound:+.1f}" for bound in self.interval or ()]
        else:
            shown, bounds = _number(self.value), [_number(bound) for bound in self.interval or ()]
        return f"{shown} ({' to '.join(bounds)})" if bounds else shown


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def named_figures(figures: Mapping[str, Any]) -> list[NamedFigure]:
    """Return the figures of one model beyond top-1, top-5, agreement and KL of a classifier.

    Args:
        figures: An entry of the ``evaluation`` part of the results.
    """
    return [
        *_against_labels(figures),
        *_of_outputs(figures.get("outputs", {})),
        *_of_all(figures),
        *_of_metrics(figures),
    ]


def figure_rows(evaluation: Mapping[str, Any], states: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of a table: the name of each figure, and its text for each state, empty where it is not known.

    Args:
        evaluation: The ``evaluation`` part of the results, or figures by any other names.
        states: The columns, as ``("dense", "pruned")``.
    """
    columns = [{one.name: one.text for one in named_figures(evaluation.get(state, {}))} for state in states]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(column.get(name, "") for column in columns)) for name in names]


def _against_labels(figures: Mapping[str, Any]) -> Iterator[NamedFigure]:
    for key, name in (("label_accuracy", "correct labels"), ("f1", "F1 of the labels")):
        if key in figures:
            yield NamedFigure(name, figures[key], unit="share")
    if "label_squared_error" in figures:
        error = figures["label_squared_error"]
        yield NamedFigure("squared error to the labels", error["mean"], error.get("interval"))
    for key, name in (("knn", "k-NN top-1"), ("zero_shot", "zero-shot top-1")):
        if key in figures:
            found = figures[key]
            if key == "knn":
                name = f"{name}, {found['neighbors']} neighbors of {found['bank_images']:,}"
            yield NamedFigure(name, found["top1"], found["interval"], "share")
            if "change" in found:
                short = name.partition(",")[0]
                yield NamedFigure(
                    f"{short}, change in points", found["change"], found.get("change_interval"), "points"
                )


def _of_outputs(outputs: Mapping[str, Any]) -> Iterator[NamedFigure]:
    for part, figures in outputs.items():
        # A single output needs no name.
        prefix = f"{part}: " if len(outputs) > 1 else ""
        for key, name in _OF_OUTPUTS.items():
            if key in figures:
                one, unit = figures[key], "share" if key in _SHARES else "number"
                yield NamedFigure(prefix + name, one["mean"], one.get("interval"), unit)


def _of_all(figures: Mapping[str, Any]) -> Iterator[NamedFigure]:
    if "output_distance" not in figures:
        return
    one, outputs = figures["output_distance"], figures.get("outputs", {})
    shown = [part[key]["mean"] for part in outputs.values() for key in _OF_OUTPUTS if key in part]
    # A divergence of a single output is the distance itself.
    if len(outputs) > 1 or one["mean"] not in shown:
        yield NamedFigure(_OF_ALL, one["mean"], one.get("interval"))


def _of_metrics(figures: Mapping[str, Any]) -> Iterator[NamedFigure]:
    for metric, values in figures.get("metrics", {}).items():
        for key, value in values.items():
            if key != "images":
                yield NamedFigure(key if key == metric else f"{metric}: {key}", value)
