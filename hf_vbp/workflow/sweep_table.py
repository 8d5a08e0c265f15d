"""The CSV file of a sweep: written after each group of models, and read to continue an interrupted sweep."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from torch import nn

from hf_vbp._progress import one_line, shown
from hf_vbp.adapters.identity import tensor_bytes
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import OutputError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.files.text import read_small_text
from hf_vbp.results.checks import find_problem, hints_of
from hf_vbp.results.sweep import SweepRow
from hf_vbp.workflow.sweep_front import is_dense, mark_fronts
from hf_vbp.workflow.sweep_tasks import Row, describe_method

METHOD = ("ratio", "target_macs", "levers", "criterion", "compensation", "scope", "minimum_width", "round_to",
          "options")  # fmt: skip
IDENTITY = {
    "weights": "another model",
    "statistics": "other statistics",
    "evaluation": "other evaluation images, bank or neighbors",
}
"""Columns that identify the inputs of a row, and the meaning of a difference."""

_FIGURES = ("parameters", "macs", "bytes", "images", "top1", "top1_low", "top1_high", "top5", "ece", "agreement", "kl",
            "knn_top1", "knn_top1_low", "knn_top1_high", "neighbors", "bank_images", "output_distance",
            "output_distance_low", "output_distance_high", "latency_ms", "speedup", "speedup_low", "speedup_high",
            "latency_batch", "latency_dtype", "latency_threads", "latency_device_name", "latency_compiled",
            "merged_tokens", "on_macs_front", "on_latency_front", "loses_most")  # fmt: skip
COLUMNS = (*METHOD, *_FIGURES, "model", *IDENTITY)
_TEXTS = {"levers", "criterion", "compensation", "scope", "options", "latency_dtype", "latency_device_name", "model",
          "loses_most", *IDENTITY}  # fmt: skip
_WHOLE = {"minimum_width", "round_to", "parameters", "macs", "bytes", "images", "latency_batch", "latency_threads",
          "merged_tokens", "neighbors", "bank_images"}  # fmt: skip
_MARKS = {"on_macs_front", "on_latency_front", "latency_compiled"}
_MARK_VALUES = {"True": True, "False": False}


@dataclass
class SweepTable:
    """The rows of one model, statistics and evaluation images, for any number of methods.

    Attributes:
        path: The CSV file.
        rows: The rows, those of the file first.
    """

    path: Path
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "SweepTable":
        """Read the file of an earlier sweep; without a file the table is empty.

        Raises:
            OutputError: The file is not one of this version of ``hf-vbp sweep``.
        """
        if not path.exists():
            return cls(path)
        try:
            reader = csv.DictReader(StringIO(read_small_text(path)))
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError("other columns")
            return cls(path, [_parsed(row, reader.line_num) for row in reader])
        except (OSError, ValueError, csv.Error) as error:
            raise OutputError(
                f"{path} exists already and is not the table of a sweep that can be continued ({one_line(error)}). "
                "Choose another output or pass --overwrite."
            ) from error

    def check_same(self, identity: Mapping[str, str]) -> None:
        """Refuse to add rows of other inputs.

        Args:
            identity: Some of the columns in ``IDENTITY``.

        Raises:
            OutputError: A row was made from another model, other statistics or other images.
        """
        for row in self.rows:
            for name, digest in identity.items():
                if row[name] != digest:
                    raise OutputError(
                        f"{self.path} holds a sweep of {row['model']} with {IDENTITY[name]} ({name} {row[name]}, now "
                        f"{digest}); it is kept. Choose another output or pass --overwrite."
                    )

    def find(self, task: VBPConfig, latency: LatencyOptions | None) -> Row | None:
        """Return the row of a configuration, with the latency where it is asked for."""
        wanted = _identity(method_columns(task))
        for row in self.rows:
            if _identity(row) == wanted and _has_latency(row, latency):
                return row
        return None

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, in place of those of the same method and ratio, and write the file."""
        for row in rows:
            same = [index for index, old in enumerate(self.rows) if _identity(old) == _identity(row)]
            if same:
                self.rows[same[0]] = row
            else:
                self.rows.append(row)
        if any("levers" in row for row in self.rows):
            mark_fronts(self.rows)
        self.write()

    def write(self) -> None:
        """Write the file in one step.

        Raises:
            OutputError: It cannot be written.
        """
        text = StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows({name: row.get(name) for name in COLUMNS} for row in self.rows)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, text.getvalue().encode("utf-8"))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error}. Choose another output.") from error


def add_details(rows: Sequence[Row], described: Sequence[Mapping[str, Any]]) -> None:
    """Add the figures of each class and of each output to rows of the table, which has no columns for them, in place.

    Args:
        rows: Rows of the table.
        described: Rows of ``sweep.json``.
    """
    known = {_identity(dict(row)): row for row in described}
    for row in rows:
        earlier = known.get(_identity(row), {})
        row |= {name: earlier[name] for name in ("classes", "outputs") if name in earlier and name not in row}


def lacks_details(rows: Sequence[Row]) -> bool:
    """Return whether a row has figures without those of each class or output that were measured with them.

    Args:
        rows: Rows of the table.
    """
    parts = (("top1", "classes"), ("output_distance", "outputs"))
    return any(figure in row and detail not in row for row in rows for figure, detail in parts)


def method_columns(task: VBPConfig) -> Row:
    """Return the columns that identify the row of a configuration."""
    options = {"criterion": dict(task.criterion_options), "compensation": dict(task.compensation_options)}
    text = json.dumps({name: value for name, value in options.items() if value}, sort_keys=True)
    limits = {"minimum_width": task.minimum_width, "round_to": task.round_to}
    return {**describe_method(task), **limits, "options": None if text == "{}" else text}


def flat(row: Row, **columns: Any) -> Row:
    """Return a row of :func:`hf_vbp.sweep` with an interval in two columns, as the file holds it."""
    made = {**row, **columns}
    if "knn" in made:
        knn = made.pop("knn")
        made |= {"knn_top1": knn["top1"], "knn_top1_interval": knn["interval"]}
        made |= {name: knn[name] for name in ("neighbors", "bank_images")}
    if "output_distance" in made:
        distance = made["output_distance"]
        made["output_distance"] = distance["mean"]
        # There is none of a single image.
        made["output_distance_interval"] = distance.get("interval", (None, None))
    for name in ("top1", "knn_top1", "output_distance", "speedup"):
        low, high = made.pop(f"{name}_interval", (None, None))
        made |= {f"{name}_low": low, f"{name}_high": high}
    # The table has no columns for them.
    for name in ("agreement", "kl"):
        made.pop(f"{name}_interval", None)
    return {name: value for name, value in made.items() if value is not None}


def model_digest(model: nn.Module) -> str:
    """Return a short hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def description_digest(description: Mapping[str, Any]) -> str:
    """Return a short hash of the description of images."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _identity(row: Row) -> tuple[Any, ...]:
    """Return what two rows of the same method and point have in common."""
    # The ratio of a share of MACs is a result.
    names = METHOD[1:] if "target_macs" in row else METHOD
    return (is_dense(row), *(row.get(name) for name in names))


def _parsed(row: Mapping[Any, Any], line: int) -> Row:
    """Return the values of a row within the limits of ``sweep.json``; raises ValueError with the line and column."""
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not {len(COLUMNS)} columns")
    parsed = {name: _value(name, text, line) for name, text in row.items() if text != ""}
    hints = hints_of(SweepRow)
    for name in COLUMNS:
        where = f"line {line}, column {name}"
        if name in parsed:
            problem = find_problem(parsed[name], hints.get(name, str), where)
            if problem is not None:
                raise ValueError(problem.removesuffix("."))
        elif name in SweepRow.__required_keys__ or name in ("model", *IDENTITY):
            raise ValueError(f"{where} is empty")
    return parsed


def _value(name: str, text: str, line: int) -> Any:
    if name in _TEXTS:
        return text
    whole, mark = name in _WHOLE, name in _MARKS
    try:
        return _MARK_VALUES[text] if mark else int(text) if whole else float(text)
    except (KeyError, ValueError):
        expected = "True or False" if mark else "a whole number" if whole else "a number"
        raise ValueError(f"line {line}, column {name} is {shown(text)}; expected {expected}") from None


def _has_latency(row: Row, latency: LatencyOptions | None) -> bool:
    if latency is None:
        return True
    dtype = None if latency.torch_dtype is None else str(latency.torch_dtype).removeprefix("torch.")
    asked = {"latency_batch": latency.batch, "latency_dtype": dtype, "latency_threads": latency.threads}
    same = all(row.get(name) == value for name, value in asked.items() if value is not None)
    return "latency_ms" in row and same and bool(row.get("latency_compiled")) == latency.compile
