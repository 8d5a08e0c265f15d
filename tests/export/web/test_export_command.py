"""Exports with a page that are refused before the model is converted."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import hf_vbp
from hf_vbp.errors import HfVbpError, MissingPackageError, UnsupportedModelError
from tests.conftest import make_model


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (
            "vit-backbone",
            UnsupportedModelError,
            "holds ViTModel; the page shows the classes of image",
        ),
        ("vit", MissingPackageError, "not to be had"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[HfVbpError], message: str
) -> None:
    def missing(*_: Any) -> None:
        raise MissingPackageError("not to be had")

    monkeypatch.setattr("hf_vbp.workflow.export_command.fetch_packages", missing)
    monkeypatch.setattr("hf_vbp.workflow.export_command.export_images", lambda *_: pytest.fail("images were read"))
    make_model(kind).save_pretrained(tmp_path / "model")
    with pytest.raises(error, match=message):
        hf_vbp.export_model(tmp_path / "model", tmp_path / "exported", web=True)
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"model"}
