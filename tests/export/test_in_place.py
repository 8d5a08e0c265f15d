"""Exports next to the weights: what is kept, what is removed with the files that it names."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hf_vbp.checkpoint.manifest import write_manifest
from hf_vbp.errors import CheckpointError
from hf_vbp.export.web import page_files, write_page

from .conftest import Work, export, files_in


@pytest.fixture(autouse=True)
def converted(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion of the checkpoint, which was done before."""
    monkeypatch.setattr("hf_vbp.export.files.convert", lambda *_: program)


def with_page(work: Work, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with ONNX files in two precisions and a page that lists them, by the code that writes pages."""
    folder = Path(shutil.copytree(work.exported, work.root / name))
    packages = work.root / f"{name}-packages"
    packages.mkdir()
    (packages / "transformers.min.js").write_text("script")
    monkeypatch.setattr(
        "hf_vbp.export.web.page.fetch_packages", lambda *_: {"transformers.min.js": packages / "transformers.min.js"}
    )
    monkeypatch.setattr("hf_vbp.workflow.export_command.fetch_packages", lambda: None)
    write_page(folder, work.exported)
    write_manifest(folder)
    listed = {"dense/onnx/model.onnx", "onnx/model_quantized.onnx", "vendor/transformers.min.js"}
    assert listed < set(page_files(folder))
    return folder


def test_a_page_goes_with_the_files_that_it_shows(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_page(work, "page_removed", monkeypatch)
    export(folder, overwrite=True)
    assert set(files_in(folder)) - {"onnx/model.onnx"} == set(files_in(work.pruned))


def test_a_page_is_written_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_page(work, "page_again", monkeypatch)
    export(folder, overwrite=True, web=True)
    names = page_files(folder)
    assert "onnx/model.onnx" in names
    assert "index.html" in names
    assert not any(name.startswith("dense/") or "quantized" in name for name in names)
    assert set(files_in(folder)) == {*files_in(work.pruned), *names}


def test_files_of_others_are_refused_with_the_other_way(work: Work) -> None:
    folder = work.copy("of_others")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    before = files_in(folder)
    for refused in (folder, work.dense):
        with pytest.raises(CheckpointError, match=r"hf_vbp did not write.*give --output DIR \(output=\)\.$"):
            export(refused)
    assert files_in(folder) == before


@pytest.mark.parametrize("listed", [True, False])
def test_checkpoints_from_the_hub_have_a_card_and_no_manifest(work: Work, listed: bool) -> None:
    folder = work.copy(f"from_the_hub_{listed}")
    (folder / "README.md").write_text("written by hf_vbp")
    if listed:
        write_manifest(folder)
        (folder / "README.md").write_text("changed by its owner")
    else:
        (folder / "vbp_manifest.json").unlink()
    before = files_in(folder)
    export(folder)
    after = files_in(folder)
    assert (folder / "README.md").read_text() == ("changed by its owner" if listed else "written by hf_vbp")
    assert set(after) == {*before, "vbp_manifest.json", "onnx/model.onnx"}
    manifest = json.loads((folder / "vbp_manifest.json").read_text())["files"]
    assert set(manifest) == set(after) - {"README.md", "vbp_manifest.json"}


def test_figures_without_results_are_kept_for_other_formats(work: Work) -> None:
    folder = work.copy("without_results")
    (folder / "vbp_results.json").unlink()
    other = {"format": "openvino", "file": "openvino/openvino_model.xml"}
    (folder / "vbp_export.json").write_text(json.dumps({"schema_version": 1, "exports": [other, {"format": "onnx"}]}))
    write_manifest(folder)
    rows: Any = export(folder)
    assert [row["format"] for row in rows] == ["openvino", "onnx"]
    assert json.loads((folder / "vbp_export.json").read_text())["exports"] == json.loads(json.dumps(rows))
