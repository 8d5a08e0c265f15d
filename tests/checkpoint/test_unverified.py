"""A trained model whose checks failed is kept under another name, and nothing else is modified."""

import json
import os
from pathlib import Path

import pytest

import hf_vbp
from hf_vbp.checkpoint.unverified import (
    MARKER,
    check_unverified,
    discard_unverified,
    keep_unverified,
    named_on_failure,
    read_unverified,
    unverified_path,
)
from hf_vbp.errors import CheckpointError, NonFiniteError
from tests.checkpoint.helpers import assert_same_outputs, assert_whole, make_pruned, widths_of


def test_the_folder_is_a_complete_checkpoint_with_its_state(tmp_path: Path) -> None:
    model = make_pruned()
    path = keep_unverified(model, tmp_path / "out", files={"plan.json": "{}"}, state={"results": {"a": 1}})
    assert path == tmp_path / "out.unverified" == unverified_path(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out.unverified"]
    assert_whole(path, widths_of(model))
    assert_same_outputs(hf_vbp.from_pretrained(path), model)
    assert read_unverified(tmp_path / "out") == {"results": {"a": 1}}


def test_an_earlier_one_is_replaced(tmp_path: Path) -> None:
    keep_unverified(make_pruned(), tmp_path / "out", files={"old.json": "{}"})
    model = make_pruned(seed=3)
    path = keep_unverified(model, tmp_path / "out", state={"run": 2})
    assert not (path / "old.json").exists()
    assert_same_outputs(hf_vbp.from_pretrained(path), model)
    assert read_unverified(tmp_path / "out") == {"run": 2}


def test_only_the_files_that_were_written_are_removed(tmp_path: Path) -> None:
    path = keep_unverified(make_pruned(), tmp_path / "out")
    (path / "notes.txt").write_text("mine", encoding="utf-8")
    discard_unverified(tmp_path / "out")
    assert os.listdir(path) == ["notes.txt"]
    with pytest.raises(CheckpointError, match=r"was not written by this package.*move it away"):
        check_unverified(tmp_path / "out")
    (path / "notes.txt").unlink()
    check_unverified(tmp_path / "out")
    keep_unverified(make_pruned(), tmp_path / "out")
    discard_unverified(tmp_path / "out")
    assert os.listdir(tmp_path) == []
    assert read_unverified(tmp_path / "out") is None


def test_a_marker_names_only_files_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine", encoding="utf-8")
    path = keep_unverified(make_pruned(), tmp_path / "out")
    marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    (path / MARKER).write_text(json.dumps({**marker, "files": ["../precious.txt"]}), encoding="utf-8")
    discard_unverified(tmp_path / "out")
    assert (tmp_path / "precious.txt").is_file()


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 2}', '{"version": 1, "files": [3], "state": {}}'])
def test_a_marker_that_is_damaged_is_refused(tmp_path: Path, content: str) -> None:
    path = keep_unverified(make_pruned(), tmp_path / "out")
    (path / MARKER).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"unverified\.json.*move .* away"):
        read_unverified(tmp_path / "out")


@pytest.mark.parametrize("error", [NonFiniteError("The logits are NaN."), RuntimeError("no memory"), KeyError("x")])
def test_a_failure_names_the_folder(tmp_path: Path, error: Exception) -> None:
    kept = Path("/there/out.unverified")
    expected = pytest.raises(CheckpointError, match=r"is kept, unverified, in /there/out\.unverified\. Do this\.")
    with expected as caught, named_on_failure(kept, "Do this."):
        raise error
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)
