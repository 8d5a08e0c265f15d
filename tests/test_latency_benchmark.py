"""The benchmark of latency on a tiny shape: rounded widths, and the profile of groups of operators."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import latency
from hf_vbp.adapters.prepared import prepare
from hf_vbp.modeling.modeling_hf_vbp import TokenMerging
from tests.costs.clock import Clock

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.SHAPES, "tiny", (32, 2))


def options_of(**changes: Any) -> argparse.Namespace:
    given = {"shapes": ["tiny"], "batches": [2], "threads": [1], "dtypes": ["float32"], "removed": 0.2, "merged": 15,
             "round_to": "8", "device": "cpu", "compile": False, "precision": 0.03, "seconds": 300.0}  # fmt: skip
    return argparse.Namespace(**{**given, **changes})


def test_widths_are_rounded_to_the_multiple() -> None:
    for round_to, width in (("1", 102), ("8", 104), ("16", 96)):
        models, multiple = latency.levers("tiny", options_of(round_to=round_to))
        assert multiple == int(round_to)
        assert {name: set(prepare(model).widths) for name, model in models.items()} == {
            "dense": {128}, "pruned": {width}, "merged": {128}, "both": {width},
        }  # fmt: skip


def test_the_multiple_is_measured_for_each_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 this clock is slow for widths that are no multiple of 16."""

    def seconds(model: Any, now: float) -> float:
        width, dtype = max(weight.shape[0] for weight in model.parameters()), next(model.parameters()).dtype
        return width * (2e-3 if dtype == torch.bfloat16 and width % 16 else 1e-3)

    Clock(seconds).install(monkeypatch)
    given = options_of(round_to="auto", dtypes=["float32", "bfloat16"])
    multiples = {row[2]: int(row[4]) for row in latency.rows(given)}
    assert multiples["float32"] < 16 <= multiples["bfloat16"]


def test_the_profile_attributes_all_time_to_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Clock(lambda model, now: 1e-3).install(monkeypatch)
    before = TokenMerging.before_block
    rows = {row[2]: [float(cell) for cell in row[3:]] for row in latency.profile_rows(options_of(round_to="auto"))}
    assert TokenMerging.before_block is before
    assert {"linear layers", "attention", "activation", "normalization", "patch embedding"} < rows.keys()
    dense, pruned, merged, both = rows[latency.MERGING]
    assert (dense, pruned) == (0, 0)
    assert merged > 0
    assert both > 0
    groups = [times for name, times in rows.items() if name not in ("total", "speed-up", "speed-up in MACs")]
    assert [sum(times) for times in zip(*groups, strict=True)] == pytest.approx(rows["total"], abs=0.5)
    assert rows["speed-up"][0] == 1
    assert rows["speed-up in MACs"][3] > rows["speed-up in MACs"][1] > 1
