"""ONNX files: their layout, their answers, and what the results say about them."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime

import hf_vbp
from hf_vbp.export import files
from hf_vbp.export.onnx_graph import save
from hf_vbp.results.record import load_results

from .conftest import Work, export, pytorch_logits, read_results, require_openvino

NAMES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx", "fp16": "onnx/model_fp16.onnx"}


def run(path: Path, pixels: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
    return np.asarray(logits)


def test_files_have_the_names_of_the_hub_and_the_checkpoint_is_the_same(work: Work) -> None:
    assert {row["precision"]: row["file"] for row in work.rows} == NAMES
    before = {path.name for path in work.pruned.iterdir()}
    assert {path.name for path in work.exported.iterdir()} == before | {"onnx"}
    assert {path.name for path in (work.exported / "onnx").iterdir()} == {Path(n).name for n in NAMES.values()}
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "plan.json"):
        assert (work.exported / name).read_bytes() == (work.pruned / name).read_bytes()
    manifest = json.loads((work.exported / "vbp_manifest.json").read_text())["files"]
    assert set(NAMES.values()) < set(manifest)
    assert hf_vbp.verify_checkpoint(work.exported, ways=["import"]).entries[0].max_abs_difference == 0.0


@pytest.mark.parametrize("images", [1, 3, 7])
def test_answers_are_those_of_pytorch_for_any_number_of_images(work: Work, images: int) -> None:
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(images))
    expected = pytorch_logits(work.exported, pixels).numpy()
    assert np.abs(run(work.exported / NAMES["fp32"], pixels) - expected).max() < 1e-4
    assert np.abs(run(work.exported / NAMES["fp16"], pixels) - expected).max() < 2e-2 * np.abs(expected).max()
    quantized = run(work.exported / NAMES["int8"], pixels)
    assert 0 < np.square(quantized - expected).sum() < 0.05 * np.square(expected).sum()


def test_results_describe_the_files(work: Work) -> None:
    load_results(work.exported)
    stored = read_results(work.exported)["exports"]
    assert stored == json.loads(json.dumps(work.rows))
    for row in stored:
        content = (work.exported / row["file"]).read_bytes()
        assert row["files"] == {row["file"]: hashlib.sha256(content).hexdigest()}
        assert row["bytes"] == len(content)
        assert row["inputs"] == {"pixel_values": ["batch_size", 3, 32, 32]}
        assert row["outputs"] == ["logits"]
        assert (row["images"], row["batches"]) == (30, [1, 3])
        assert row["runtime"] == f"onnxruntime {onnxruntime.__version__}"
        assert [one["threads"] for one in row["latency"]] == [1, 2]
        assert all(one["median_ms"] > 0 and one["dense_ms"] > 0 for one in row["latency"])
        assert row["dense"]["bytes"] > row["bytes"]
        assert row["dense"]["agreement"] >= 0.8
        assert [one["threads"] for one in row["dense"]["latency"]] == [1, 2]
        assert all(("speedup" in one) == (row["precision"] != "fp32") for one in row["dense"]["latency"])
    exact = stored[0]
    assert exact["max_abs_difference"] < 1e-4
    assert (exact["agreement"], exact["top1"]) == (1.0, exact["pytorch_top1"])


def test_top1_is_that_of_the_file(work: Work) -> None:
    model = hf_vbp.from_pretrained(work.exported)
    labelled = hf_vbp.load_images(work.images, model=model, purpose="evaluation", limit=32)
    hits = [
        run(work.exported / NAMES["int8"], batch["pixel_values"]).argmax(-1) == batch["labels"].numpy()
        for batch in labelled
    ]
    row = next(row for row in work.rows if row["precision"] == "int8")
    assert row["top1"] == pytest.approx(np.concatenate(hits).mean())


def test_int8_graph_computes_in_int8_as_the_results_say(work: Work) -> None:
    row = next(row for row in work.rows if row["precision"] == "int8")
    quantization = row["quantization"]
    assert set(quantization["errors"]) == {"dynamic", "static"}
    assert quantization["errors"][quantization["method"]] == min(quantization["errors"].values())
    before, after = (
        Counter(node.op_type for node in onnx.load(work.exported / NAMES[name]).graph.node)
        for name in ("fp32", "int8")
    )
    # Two blocks of six projections, and the classifier.
    products = before["MatMul"] + before["Gemm"] + before["Conv"]
    assert quantization["float_nodes"] == pytest.approx((products - 13) / products)
    if quantization["method"] == "dynamic":
        assert after["MatMulInteger"] == 13
    sizes = [(work.exported / NAMES[name]).stat().st_size for name in ("fp32", "fp16", "int8")]
    assert max(sizes[1:]) < sizes[0]


def test_fp16_has_weights_of_half_precision_and_inputs_of_float32(work: Work) -> None:
    graph = onnx.load(work.exported / NAMES["fp16"]).graph
    large = {one.data_type for one in graph.initializer if np.prod(one.dims) >= 32 and one.data_type in (1, 10)}
    assert large == {onnx.TensorProto.FLOAT16}
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("name", NAMES.values())
def test_files_hold_no_path_of_this_machine(work: Work, name: str) -> None:
    content = (work.exported / name).read_bytes()
    for text in (str(Path(torch.__file__).parents[1]), str(Path.home()), str(work.root), "stack_trace"):
        assert text.encode() not in content


def test_a_folder_of_its_own_names_no_file_that_it_lacks(work: Work, tmp_path: Path) -> None:
    (row,) = export(work.pruned, output=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "config.json", "preprocessor_config.json", "onnx", "vbp_export.json", "vbp_manifest.json",
    }  # fmt: skip
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "auto_map" not in config
    assert config["vbp"] == json.loads((work.pruned / "config.json").read_text())["vbp"]
    assert (row["data"], row["images"]) == ("generated", 4)
    assert json.loads((tmp_path / "out/vbp_export.json").read_text())["exports"] == json.loads(json.dumps([row]))
    # The weights of the graph are those of the checkpoint, whatever the sizes of files allow.
    import onnx_ir

    model = onnx_ir.load(tmp_path / "out/onnx/model.onnx")
    (tmp_path / "large").mkdir()
    save(model, tmp_path / "large/model.onnx", largest=1000)
    assert {path.name for path in (tmp_path / "large").iterdir()} == {"model.onnx", "model.onnx_data"}
    pixels = torch.randn(2, 3, 32, 32)
    assert np.array_equal(run(tmp_path / "large/model.onnx", pixels), run(tmp_path / "out/onnx/model.onnx", pixels))


def test_files_of_another_format_are_kept(work: Work, program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    require_openvino()
    convert = files.convert
    monkeypatch.setattr(files, "convert", lambda *given: program if given[2].name == "onnx" else convert(*given))
    folder = work.copy("two_formats")
    first = export(folder)
    both = export(folder, format="openvino")
    assert [row["format"] for row in both] == ["onnx", "openvino"]
    assert both[0] == json.loads(json.dumps(first[0]))
    again: Any = export(folder, overwrite=True)
    assert [row["format"] for row in again] == ["openvino", "onnx"]
    assert {row["file"] for row in read_results(folder)["exports"]} == {
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
    }
