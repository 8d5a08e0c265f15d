"""The dense model next to the pruned one, uncertain latencies, and the tables of both."""

import io
import math
from contextlib import redirect_stdout
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hf_vbp.cli.export import show
from hf_vbp.export import files
from hf_vbp.export.files import ExportedModel, ExportOptions, write_dense
from hf_vbp.export.formats import FORMATS
from hf_vbp.export.latency import latency_rows
from hf_vbp.export.parity import DisagreementError, Opened
from hf_vbp.results.export_table import export_cells
from tests.conftest import make_model

from .conftest import Silent


def measured(*medians: float, spread: float = 0.01, threads: int = 2) -> Opened:
    """Twenty-one passes of each file, evenly spread around a median in milliseconds."""
    seconds = [[median * (1 + spread * (i - 10) / 10) / 1e3 for i in range(21)] for median in medians]
    return Opened("runtime", {}, [{"threads": threads, "seconds": seconds}])


def test_latency_of_the_file_and_of_the_dense_model_in_its_precision() -> None:
    ((row,), dense) = latency_rows(measured(6.0), "a", pytest.fail)
    assert (row["median_ms"], row["repetitions"], dense) == (pytest.approx(6.0), 21, [])
    assert row["interval_ms"] == pytest.approx([5.97, 6.03])
    ((row,), (dense_row,)) = latency_rows(measured(12.0, 6.0), "a", pytest.fail)
    assert (row["dense_ms"], row["speedup"]) == pytest.approx((12.0, 2.0))
    assert dense_row["median_ms"] == pytest.approx(12.0)
    assert "speedup" not in dense_row
    ((row,), (dense_row,)) = latency_rows(measured(12.0, 8.0, 4.0), "a", pytest.fail)
    assert (row["speedup"], dense_row["speedup"], dense_row["median_ms"]) == pytest.approx((3.0, 1.5, 8.0))


@pytest.mark.parametrize("medians", [(6.0,), (12.0, 6.0)])
def test_uncertain_latencies_are_left_out_with_a_warning(medians: tuple[float, ...]) -> None:
    texts: list[str] = []
    assert latency_rows(measured(*medians, spread=0.9, threads=1), "model.onnx", texts.append) == ([], [])
    (text,) = texts
    assert text.startswith("model.onnx: the latency with 1 thread is left out")
    assert "expected at most 25 %" in text
    few = Opened("runtime", {}, [{"threads": 2, "seconds": [[0.006] * 5]}])
    assert latency_rows(few, "a", texts.append) == ([], [])


@pytest.mark.parametrize("broken", ["int8", "fp32"])
def test_a_dense_file_that_disagrees_does_not_stop_the_export(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def written(program: Any, precision: str, model: Any, folder: Any, *_: Any) -> dict[str, Any]:
        if precision == broken:
            raise DisagreementError("model.onnx gives the answer of PyTorch on 90 % of the images", "Advice.")
        return {"file": f"onnx/{precision}.onnx", "bytes": 7, "agreement": 1.0, "runtime": "r"}

    monkeypatch.setattr(files, "convert", lambda *_: "program")
    monkeypatch.setattr(files, "_write_file", written)
    model = ExportedModel(make_model("vit", num_hidden_layers=1), {}, None)  # type: ignore[arg-type]
    reporter = Silent()
    found = write_dense(model, tmp_path, FORMATS["onnx"], ExportOptions(("int8", "fp16")), reporter)
    assert set(found) == ({"fp32", "fp16"} if broken == "int8" else set())
    assert reporter.texts[-1] == (
        "dense model: model.onnx gives the answer of PyTorch on 90 % of the images. The dense model is left out of "
        f"the comparison in {broken}."
    )
    if found:
        assert found["fp32"].path == tmp_path / "onnx/fp32.onnx"
        assert found["fp16"].path.parent.parent == tmp_path / "quantized"
        assert found["fp32"].figures == {"bytes": 7, "agreement": 1.0}


def row(file: str, form: str, precision: str) -> dict[str, Any]:
    """A row with the largest figures that a table should show in 80 columns."""
    times = [{"threads": threads, "median_ms": 528.4, "speedup": 1.25} for threads in (1, 2)]
    figures = {"top1": 0.832, "agreement": 1.0, "max_abs_difference": 7e-6, "latency": times}
    dense = {"bytes": 22_900_000, **figures}
    return {
        "file": file, "format": form, "precision": precision, "bytes": 346_400_000, "data": "photos", "images": 32,
        **figures, "dense": dense,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("onnx", ("onnx/model.onnx", "onnx/model_quantized.onnx")),
        ("openvino", ("openvino/openvino_model.xml", "openvino/openvino_model_fp16.xml")),
    ],
)
def test_tables_have_the_dense_model_and_fit_80_columns(
    monkeypatch: pytest.MonkeyPatch, form: str, names: tuple[str, str]
) -> None:
    rows = [row(name, form, precision) for name, precision in zip(names, ("fp32", "int8"), strict=True)]
    head, cells = export_cells(rows)
    assert head[-2:] == ("1 thread", "2 threads")
    assert [cell[:4] for cell in cells] == [
        ("dense", "fp32", "22.90 MB", "83.2 %"),
        (names[0], "fp32", "346.40 MB", "83.2 %"),
        ("dense", "int8", "22.90 MB", "83.2 %"),
        (names[1], "int8", "346.40 MB", "83.2 %"),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    with redirect_stdout(io.StringIO()) as printed:
        show({"folder": "pruned", "exports": rows})
    lines = printed.getvalue().splitlines()
    for text in ("dense, int8", *(name.rpartition("/")[2] for name in names)):
        assert any(f"│ {text} " in line for line in lines), printed.getvalue()
    assert max(len(line) for line in lines if "│" in line) <= 80
    assert "528.4" in printed.getvalue()


def test_columns_without_figures_are_left_out() -> None:
    one = row("onnx/model.onnx", "onnx", "fp32")
    for figures in (one, one["dense"]):
        del figures["latency"], figures["top1"]
    assert export_cells([one])[0] == ("file", "precision", "size", "same answer", "difference")
    one["max_scaled_difference"] = 2e-4
    head, (dense, file) = export_cells([one])
    assert head[-1] == "scaled difference"
    assert (dense[-1], file[-1]) == (None, "0.0002")
    both = export_cells([one, row("openvino/openvino_model.xml", "openvino", "fp32")])[1]
    assert [cells[0] for cells in both][::2] == ["dense, onnx", "dense, openvino"]
    assert math.isfinite(float(file[-1] or "nan"))
