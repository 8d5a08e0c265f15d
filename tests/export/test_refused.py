"""Exports that are refused: one sentence, and nothing written."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnx_ir
import torch

from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, MissingPackageError, UnsupportedModelError
from hf_vbp.evaluation.task import Task
from hf_vbp.export import conversion
from hf_vbp.export.conversion import convert
from hf_vbp.export.files import ExportOptions
from hf_vbp.export.formats import FORMATS, find_format
from hf_vbp.export.parity import Limits, Opened, check_parity, compared
from hf_vbp.export.reference import Reference
from tests.cli.helpers import run
from tests.conftest import make_model

from .conftest import NO_TIME, Work, export, files_in


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"format": "tflite"}, ConfigurationError, "expected one of onnx, openvino, torch-export, executorch"),
        ({"options": ExportOptions(("int4",))}, ConfigurationError, "expected fp16 or int8"),
        ({"format": "openvino", "options": ExportOptions(("int8",))}, ConfigurationError, "int8 is written for onnx"),
        ({"options": ExportOptions(("int8",))}, DataError, "--data"),
        ({"format": "openvino", "web": True}, ConfigurationError, "--format onnx"),
        ({"options": ExportOptions(minimum_agreement=95)}, ConfigurationError, "between 0 and 1"),
    ],
)
def test_requests_are_refused_before_the_model_is_loaded(
    work: Work, monkeypatch: pytest.MonkeyPatch, changes: Any, error: type[Exception], text: str
) -> None:
    monkeypatch.setattr("hf_vbp.workflow.loading.load_model", lambda *_, **__: pytest.fail("loaded"))
    before = files_in(work.pruned)
    with pytest.raises(error, match=text):
        export(work.pruned, **changes)
    assert files_in(work.pruned) == before


def test_output_that_exists_is_refused(work: Work, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hf_vbp.workflow.loading.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match="exists already; nothing was changed"):
        export(work.exported)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        export(work.pruned, output=tmp_path)
    with pytest.raises(CheckpointError, match=r"notes\.txt, which hf_vbp did not write"):
        export(work.pruned, output=tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match="the model of this run"):
        export(work.pruned, output=work.pruned, overwrite=True)
    with pytest.raises(CheckpointError, match="hf_vbp did not write"):
        export(work.dense)
    with pytest.raises(ConfigurationError, match="give --output"):
        export("sample")


@pytest.mark.parametrize(("name", "install"), [("onnx", "hf-vbp[onnx]"), ("openvino", "hf-vbp[openvino]")])
def test_formats_that_are_not_installed_name_the_command(
    monkeypatch: pytest.MonkeyPatch, name: str, install: str
) -> None:
    for module in FORMATS[name].modules:
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingPackageError) as caught:
        find_format(name)
    assert f"pip install '{install}'" in str(caught.value)


def test_executorch_is_named_with_its_command() -> None:
    pytest.importorskip("torch")
    try:
        import executorch  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        with pytest.raises(MissingPackageError, match="pip install executorch"):
            find_format("executorch")


def test_a_model_that_the_exporter_cannot_take(tmp_path: Path) -> None:
    model = make_model("vit", num_hidden_layers=1)
    forward = model.forward

    def reads_values(pixel_values: Any, **options: Any) -> Any:
        if pixel_values.sum() > 0:
            pixel_values = pixel_values * 2
        return forward(pixel_values, **options)

    model.forward = reads_values
    with pytest.raises(
        UnsupportedModelError, match=r"ViTForImageClassification cannot be converted to ONNX"
    ) as caught:
        convert(model, {"pixel_values": torch.randn(2, 3, 32, 32)}, FORMATS["onnx"])
    assert "\n" not in str(caught.value)


@pytest.fixture
def converted(work: Work, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion of the checkpoint, which was done before."""
    monkeypatch.setattr("hf_vbp.export.files.convert", lambda *_: program)


@pytest.mark.usefixtures("converted")
def test_full_disk_leaves_the_checkpoint_as_before(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = work.copy("full_disk")
    before = files_in(folder)

    def full(model: Any, path: Any, **_: Any) -> None:
        Path(path).write_bytes(b"half a graph")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_ir, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(folder)
    assert files_in(folder) == before


@pytest.mark.usefixtures("converted")
def test_a_file_that_disagrees_is_not_written(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = work.copy("disagrees")
    before = files_in(folder)
    saved = conversion.onnx_graph.save

    def damaged(model: Any, path: Path) -> None:
        saved(model, path)
        graph = onnx.load(path)
        for weight in graph.graph.initializer:
            if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2:
                weight.raw_data = (onnx.numpy_helper.to_array(weight) * 1.1).tobytes()
        onnx.save(graph, path)

    monkeypatch.setattr(conversion.onnx_graph, "save", damaged)
    with pytest.raises(CheckpointError, match=r"onnx/model\.onnx differs from the PyTorch model by 0\."):
        export(folder, options=ExportOptions(timing=NO_TIME))
    assert files_in(folder) == before


@pytest.mark.usefixtures("converted")
def test_a_file_that_its_runtime_cannot_open(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = work.copy("damaged")
    before = files_in(folder)
    monkeypatch.setattr(conversion.onnx_graph, "save", lambda model, path: path.write_bytes(b"no graph"))
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be opened or run by its runtime"):
        export(folder)
    assert files_in(folder) == before


def test_limits_of_each_precision() -> None:
    figures = {"max_abs_difference": 0.009, "agreement": 0.96, "images": 100}
    check_parity("a", figures, Limits(None, 0.95))
    for limits in (Limits(1e-3, 0.9), Limits(1e-2, 0.99), Limits(None, 0.97)):
        with pytest.raises(CheckpointError, match="so nothing was written"):
            check_parity("a", figures, limits)
    reference = Reference({}, {}, Task("class", None, "model"), "images")
    assert Limits.of("fp32", reference) == Limits(1e-3, 1.0)
    assert Limits.of("fp16", reference) == Limits(1e-2, 0.99)
    assert Limits.of("int8", reference, 0.9) == Limits(None, 0.9)
    assert Limits.of("int8", reference, 0.9, merges=True) == Limits(None, 0.9, scaled=True)
    assert Limits.of("fp32", reference, merges=True) == Limits(5e-2, 0.99, scaled=True)
    for labels, scaled in (("several", False), ("numbers", True), ("features", True), ("none", True)):
        other = Reference({}, {}, Task(labels, None, "model"), "images")
        assert Limits.of("fp32", other) == Limits(1e-3, 0.999, scaled)
    with pytest.raises(CheckpointError, match="differs"):
        check_parity("a", figures | {"max_abs_difference": float("nan")}, Limits(1e-2, 0.9))


def test_large_logits_do_not_hide_a_difference() -> None:
    logits = torch.tensor([[68.2, 1.0], [3.0, -5.0]])
    reference = Reference({"x": torch.zeros(2, 1)}, {"logits": logits}, Task("class", None, "model"), "made")
    figures = compared(Opened("runtime", {1: {"logits": logits + 0.02}, 3: {"logits": logits}}, []), reference)
    assert figures["max_abs_difference"] == pytest.approx(0.02, rel=1e-3)
    assert figures["max_scaled_difference"] == pytest.approx(0.02 / 68.2, rel=1e-3)
    with pytest.raises(CheckpointError, match=r"by 0\.02 on 2 images"):
        check_parity("a", figures, Limits.of("fp32", reference))
    depth = Reference(reference.inputs, reference.outputs, Task("none", None, "model"), "made")
    check_parity("a", figures, Limits.of("fp32", depth))
    with pytest.raises(CheckpointError, match=r"by 0\.000293 times the largest value of an output"):
        check_parity("a", figures, Limits(1e-4, 0.9, scaled=True))


@pytest.mark.usefixtures("converted")
def test_command_line(work: Work, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(["export", str(work.exported)], capfd, monkeypatch)
    assert ran.code == 2
    assert "exists already" in ran.err
    assert "Traceback" not in ran.err
    folder = work.copy("command")
    # A warning about the noise of this machine is no part of this test.
    monkeypatch.setattr("hf_vbp.export.latency.WIDEST", math.inf)
    ran = run(["export", str(folder), "-q"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert "model.onnx" in ran.out
    assert "same" in ran.out
    assert " 100.0 " in ran.out
    assert ran.err == ""


@pytest.mark.usefixtures("converted")
def test_the_page_gets_the_folder_and_the_dense_model(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []

    def write_page(folder: Path, dense: Path | None = None) -> None:
        assert dense is not None
        pages.append(
            [(one / name).is_file() for one in (folder, dense) for name in ("config.json", "onnx/model.onnx")]
        )
        (folder / "index.html").write_text("page")

    monkeypatch.setattr("hf_vbp.workflow.export_command.write_page", write_page)
    monkeypatch.setattr("hf_vbp.workflow.export_command.fetch_packages", lambda: None)
    # The same model stands in for the dense one, since its conversion was done.
    export(work.pruned, output=work.root / "page", web=True, base=str(work.pruned))
    assert pages == [[True] * 4]
    assert (work.root / "page/index.html").read_text() == "page"


def test_a_page_that_cannot_be_made_is_refused_before_the_images_are_read(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_network() -> None:
        raise MissingPackageError("transformers.js cannot be downloaded.")

    monkeypatch.setattr("hf_vbp.workflow.export_command.fetch_packages", without_network)
    monkeypatch.setattr("hf_vbp.workflow.export_command.export_images", lambda *_: pytest.fail("images were read"))
    with pytest.raises(MissingPackageError):
        export(work.pruned, output=work.root / "no_page", web=True)
    assert not (work.root / "no_page").exists()


def test_formats_on_the_command_line_are_those_of_the_package() -> None:
    from hf_vbp.cli.export import FORMATS as NAMED

    assert ", ".join(FORMATS) == NAMED
