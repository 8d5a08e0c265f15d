"""The table of an earlier sweep is read within the limits of ``sweep.json``; wrong values are named."""

import csv
from pathlib import Path

import pytest

from hf_vbp.errors import OutputError
from hf_vbp.workflow.sweep_table import COLUMNS, SweepTable

DENSE = {
    "ratio": 0.0, "parameters": 84042, "macs": 3582144, "bytes": 336168, "images": 20, "top1": 0.15, "top1_low": 0.05,
    "top1_high": 0.36, "model": "sample", "weights": "c5d6", "statistics": "3514", "evaluation": "aac0",
}  # fmt: skip
PRUNED = {
    **DENSE, "ratio": 0.5, "criterion": "obs", "compensation": "linear", "scope": "global", "minimum_width": 1,
    "round_to": 1, "kl": 0.01, "latency_ms": 2.5, "speedup": 1.5, "latency_batch": 1, "latency_dtype": "float32",
    "latency_threads": 1, "levers": "mlp", "on_macs_front": True,
}  # fmt: skip


def write(path: Path, **changes: object) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([DENSE, {**PRUNED, **changes}])
    return path


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = SweepTable.load(write(tmp_path / "sweep.csv"))
    assert table.rows == [DENSE, PRUNED]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("top1", 7.5, "is 7.5; expected at most 1"),
        ("top1", -0.1, "is -0.1; expected at least 0"),
        ("top1", "nan", "expected a finite number"),
        ("top1", "x", "is 'x'; expected a number"),
        ("top1_high", 36, "expected at most 1"),
        ("images", 0, "is 0; expected at least 1"),
        ("images", "", "is empty"),
        ("macs", 1.5, "is '1.5'; expected a whole number"),
        ("bytes", -1, "expected at least 0"),
        ("kl", -3, "expected at least 0"),
        ("speedup", 0, "expected more than 0"),
        ("scope", "banana", "expected one of 'global', 'layer'"),
        ("levers", "banana", "expected one of"),
        ("on_macs_front", "yes", "is 'yes'; expected True or False"),
        ("model", "", "is empty"),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path: Path, column: str, value: object, says: str) -> None:
    path = write(tmp_path / "sweep.csv", **{column: value})
    before = path.read_bytes()
    with pytest.raises(OutputError, match=f"line 3, column {column} .*{says}"):
        SweepTable.load(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("added", ["0.5,x\n", "," * 60 + "\n"])
def test_a_line_of_another_length_is_named(tmp_path: Path, added: str) -> None:
    path = write(tmp_path / "sweep.csv")
    path.write_text(path.read_text() + added)
    with pytest.raises(OutputError, match=f"line 4 has not {len(COLUMNS)} columns"):
        SweepTable.load(path)
