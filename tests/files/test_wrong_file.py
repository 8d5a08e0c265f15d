"""A file given in place of another is named for what it is."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_vbp.data.label_files import read_label_map
from hf_vbp.errors import HfVbpError
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.finetune.recipe import load_recipe

TESTS = Path(__file__).parents[1]
STATISTICS = TESTS / "statistics" / "first_version" / "statistics-with-curves.safetensors"
PLAN = TESTS / "checkpoint" / "first_version" / "global" / "plan.json"
RESULTS = TESTS / "checkpoint" / "first_version" / "global" / "vbp_results.json"

Read = Callable[[Path], object]
READERS: dict[str, Read] = {
    "statistics": ActivationStatistics.load,
    "plan": PruningPlan.load,
    "labels": read_label_map,
    "recipe": lambda path: load_recipe([path]),
}


def written(folder: Path, kind: str) -> Path:
    path = folder / "given"
    if kind == "weights":
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes({"text": "é".encode() * 5000, "bytes": b"\xff" * 64, "empty": b"", "json": b'{"a": 1}'}[kind])
    return path


@pytest.mark.parametrize(
    ("reader", "given", "says"),
    [
        ("statistics", PLAN, "is a pruning plan .JSON., not a file of statistics. A plan is given to --plan"),
        ("statistics", RESULTS, "is results of a pruning .JSON., not a file of statistics"),
        ("statistics", "json", "is JSON, not a file of statistics"),
        ("statistics", "text", "is text, not a file of statistics"),
        ("statistics", "empty", "is an empty file, not a file of statistics"),
        ("statistics", "weights", "given is of kind unknown"),
        ("plan", STATISTICS, "is a file of statistics .*, not a pruning plan, .* given to --statistics"),
        ("plan", "weights", "is a safetensors file, as weights are, not a pruning plan"),
        ("plan", RESULTS, "is results of a pruning .JSON., not a pruning plan"),
        ("plan", "json", "is JSON, not a pruning plan"),
        ("plan", "text", "is text, not a pruning plan"),
        ("plan", "bytes", "is not text, not a pruning plan, which is JSON"),
        ("plan", "empty", "is an empty file, not a pruning plan"),
        ("recipe", PLAN, "plan.json is neither a recipe nor a checkpoint: it is a pruning plan"),
        ("recipe", STATISTICS, "neither a recipe nor a checkpoint: it is a file of statistics"),
    ],
)
def test_a_file_of_another_kind_is_named(reader: str, given: Any, says: str, tmp_path: Path) -> None:
    path = given if isinstance(given, Path) else written(tmp_path, given)
    with pytest.raises(HfVbpError, match=says) as caught:
        READERS[reader](path)
    assert not any(word in str(caught.value) for word in ("again", "codec", "header", "damaged"))


@pytest.mark.parametrize("reader", ["statistics", "plan", "labels"])
def test_a_missing_file_is_missing(reader: str, tmp_path: Path) -> None:
    with pytest.raises(HfVbpError, match="there is no such file"):
        READERS[reader](tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_no_file_and_is_not_opened(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HfVbpError, match="it is not a file, but a pipe or a device"):
        READERS[reader](tmp_path / "pipe")


@pytest.mark.parametrize("reader", ["plan", "labels"])
def test_a_folder_is_no_file(reader: str, tmp_path: Path) -> None:
    with pytest.raises(HfVbpError, match="it is a folder"):
        READERS[reader](tmp_path)


def test_damaged_statistics_are_still_damaged(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(STATISTICS.read_bytes()[:-100])
    with pytest.raises(HfVbpError, match=r"is damaged: .* Gather the statistics again"):
        ActivationStatistics.load(tmp_path / "cut")
    (tmp_path / "plan.json").write_text(json.dumps({"version": 99, "sites": []}))
    with pytest.raises(HfVbpError, match="version 99"):
        PruningPlan.load(tmp_path / "plan.json")
