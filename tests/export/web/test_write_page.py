"""The files that ``write_page`` writes, and the folders that it refuses. The packages of npm are small ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.errors import CheckpointError, HfVbpError, UnsupportedModelError
from hf_vbp.export.web import page, page_files, write_page
from tests.export.web.helpers import color_schemes, contrast
from tests.export.web.packages import CONFIG, make_export, make_packages

STATIC = Path(page.__file__).parent / "static"


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of ``write_page`` that need neither npm nor a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    packages, tarballs = make_packages(tmp_path / "tarballs")
    return {"packages": packages, "tarballs": tarballs}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_that_the_page_needs_is_in_the_folder(tmp_path: Path, options: dict[str, Any]) -> None:
    pruned = make_export(tmp_path / "pruned", "model.onnx", "model_quantized.onnx")
    (pruned / "notes.txt").write_text("of the user", encoding="utf-8")
    dense = make_export(tmp_path / "dense", vbp=None)
    names = write_page(pruned, dense, **options)
    assert files(pruned) == {*names, "notes.txt"}
    assert page_files(pruned) == names
    assert len(names) == len(set(names))
    assert {
        "index.html", "page.json", "page.js", "vendor/transformers.min.js", "vendor/LICENSE-transformers.js.txt",
        "vendor/LICENSE-onnxruntime.txt", "vendor/ort-wasm-simd-threaded.wasm", "config.json", "onnx/model.onnx",
        "onnx/model_quantized.onnx", "dense/config.json", "dense/onnx/model.onnx",
    } <= set(names)  # fmt: skip
    content = json.loads((pruned / "page.json").read_text(encoding="utf-8"))
    assert content["title"] == "Image classification with ViT"
    assert content["packages"] == {"@huggingface/transformers": "1.0.0", "onnxruntime-web": "1.0.0"}
    models = [(model["name"], model["folder"], [f["dtype"] for f in model["files"]]) for model in content["models"]]
    assert models == [("Pruned", ".", ["fp32", "q8"]), ("Dense", "dense", ["fp32"])]
    assert content["models"][0]["files"][1] == {"dtype": "q8", "path": "onnx/model_quantized.onnx", "bytes": 20}
    # Nothing names a place of this machine.
    assert str(tmp_path) not in (pruned / "page.json").read_text(encoding="utf-8")


def test_a_page_is_written_again(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make_export(tmp_path / "pruned")
    before = write_page(folder, **options)
    (folder / "onnx/model_quantized.onnx").write_text("new", encoding="utf-8")
    after = write_page(folder, title="Birds & <others>", **options)
    assert set(after) == {*before, "onnx/model_quantized.onnx"}
    assert json.loads((folder / "page.json").read_text(encoding="utf-8"))["title"] == "Birds & <others>"
    assert "Birds" not in (folder / "index.html").read_text(encoding="utf-8")


def test_a_model_that_was_not_pruned(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "dense"
    make_export(folder)
    config = {name: value for name, value in CONFIG.items() if name != "vbp"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_page(folder, **options)
    assert json.loads((folder / "page.json").read_text(encoding="utf-8"))["models"][0]["name"] == "Model"


def _without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _config(**changes: Any) -> Any:
    return lambda folder: (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (_without("config.json"), CheckpointError, "config.json cannot be read"),
        (_without("preprocessor_config.json"), CheckpointError, "preprocessor_config.json cannot be read"),
        (_without("onnx/model.onnx"), CheckpointError, "holds neither onnx/model.onnx nor onnx/model_quantized.onnx"),
        (_config(architectures=["ViTModel"]), UnsupportedModelError, "holds ViTModel; the page shows the classes"),
        (_config(architectures=None), UnsupportedModelError, "holds a model without architectures"),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "is not a JSON object"),
        (lambda f: (f / "onnx/model.onnx_data").touch(), UnsupportedModelError, "its weights in a second file"),
    ],
)
@pytest.mark.parametrize("where", ["pruned", "dense"])
def test_folders_that_are_refused_are_not_changed(
    tmp_path: Path, options: dict[str, Any], where: str, spoil: Any, kind: type[HfVbpError], message: str
) -> None:
    folders = {name: make_export(tmp_path / name) for name in ("pruned", "dense")}
    spoil(folders[where])
    before = files(folders["pruned"])
    with pytest.raises(kind, match=re.escape(message)):
        write_page(folders["pruned"], folders["dense"], **options)
    assert files(folders["pruned"]) == before


def test_a_page_of_another_origin_is_kept(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make_export(tmp_path / "pruned")
    (folder / "index.html").write_text("of the user", encoding="utf-8")
    before = files(folder)
    with pytest.raises(CheckpointError, match=r"index\.html was not written by hf-vbp, so it is not replaced"):
        write_page(folder, **options)
    assert files(folder) == before


def test_a_failure_half_way_leaves_no_page(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dense = make_export(tmp_path / "pruned"), make_export(tmp_path / "dense")
    before, copy = files(folder), page._copy

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".onnx":
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(page, "_copy", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(folder, dense, **options)
    assert files(folder) == before


def test_the_list_of_a_page_is_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = make_export(tmp_path / "pruned")
    with pytest.raises(CheckpointError, match=r"page\.json cannot be read"):
        page_files(folder)
    write_page(folder, **options)
    (folder / "page.css").unlink()
    with pytest.raises(CheckpointError, match=r"page\.css is missing"):
        page_files(folder)
    (folder / "page.json").write_text('{"files": ["/etc/passwd"]}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="was not written by hf-vbp"):
        page_files(folder)
    content = {"format": "hf_vbp.page", "files": ["../secret"]}
    (folder / "page.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "secret").touch()
    with pytest.raises(CheckpointError, match="is not in the folder"):
        page_files(folder)


def test_the_page_names_no_other_host() -> None:
    for path in STATIC.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            hosts = set(re.findall(r"https?://(\w[\w.-]*\w)", path.read_text(encoding="utf-8")))
            assert hosts <= {"localhost"}, path


def test_the_colors_have_enough_contrast() -> None:
    light, dark = color_schemes((STATIC / "page.css").read_text(encoding="utf-8"))
    assert light.keys() == dark.keys()
    pairs = [(text, ground) for text in ("text", "muted", "error", "accent") for ground in ("background", "surface")]
    for colors in (light, dark):
        for one, other in [*pairs, ("text", "bar"), ("on-accent", "accent")]:
            assert contrast(colors[one], colors[other]) >= 4.5, (one, other)
        # WCAG asks for less where no text is read: borders of controls.
        assert contrast(colors["line"], colors["background"]) >= 3
