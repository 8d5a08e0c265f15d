"""A full temporary folder: the sentence names it, not the output or the runtime."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_vbp.errors import CheckpointError
from hf_vbp.evaluation.task import Task
from hf_vbp.export import parity
from hf_vbp.export.conversion import Program
from hf_vbp.export.files import ExportOptions, _checked, _outputs
from hf_vbp.export.formats import FORMATS
from hf_vbp.export.job_folder import job_folder
from hf_vbp.export.parity import Limits, open_in_fresh_process
from hf_vbp.export.reference import Reference

SENTENCE = r"^The temporary folder .*tmp.* is full or cannot be written to \(.*No space left.*TMPDIR"
REFERENCE = Reference({"x": torch.zeros(1, 1)}, {"logits": torch.zeros(1, 2)}, Task("class", None, "model"), "made")


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_inputs_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(np, "save", full)
    path = Path("onnx/model.onnx")
    with pytest.raises(CheckpointError, match=SENTENCE) as caught:
        _checked(path, FORMATS["onnx"], REFERENCE, Limits(None, 0.0), ExportOptions(), (), None)  # type: ignore[arg-type]
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_vbp.export.files.save", full)
    with pytest.raises(CheckpointError, match=SENTENCE):
        _outputs(Program("graph", {}, ["logits"]), REFERENCE, FORMATS["onnx"])


def test_outputs_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script of the process itself, with a runtime of two lines and a disk that is full."""
    script = parity._SCRIPT.read_text(encoding="utf-8").replace(
        'if __name__ == "__main__":',
        '_RUNTIMES["onnx"] = lambda: ("made", lambda *_: lambda inputs: {"logits": inputs["x"]})\n'
        "def _full(*_):\n    raise OSError(28, 'No space left on device')\n"
        "np.save = _full\n"
        'if __name__ == "__main__":',
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(parity, "_SCRIPT", tmp_path / "script.py")
    (tmp_path / "job").mkdir()
    with pytest.raises(CheckpointError, match=SENTENCE):
        open_in_fresh_process(FORMATS["onnx"], Path("model.onnx"), REFERENCE, tmp_path / "job")


def test_no_temporary_folder_and_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(CheckpointError, match=SENTENCE), job_folder():
        pass
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"^the model disagrees$"), job_folder():
        raise CheckpointError("the model disagrees")
