"""Exported files that give NaN or infinity: refused, and never chosen."""

import math
from typing import Any

import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from hf_vbp.errors import CheckpointError
from hf_vbp.export import quantization
from hf_vbp.export.conversion import Program
from hf_vbp.export.parity import Opened, compared
from hf_vbp.export.quantization import Quantized, best_int8
from hf_vbp.export.reference import Reference, reference_of
from tests.conftest import make_model


def reference(images: int = 4) -> Reference:
    """A classifier that answers class 0 for each image, as ``argmax`` answers for NaN."""
    model = make_model("vit", num_hidden_layers=1)
    model.classifier.bias.data[0] += 30
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return reference_of(model, [{"pixel_values": pixels}], "made", limit=images)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_that_are_not_finite_are_refused(value: float, batch: int) -> None:
    answers = reference()
    outputs = {size: {"logits": answers.outputs["logits"].clone()} for size in (1, 3)}
    compared(Opened("runtime", outputs, []), answers)
    outputs[batch]["logits"][:, 1:] = value
    with pytest.raises(CheckpointError, match=rf"onnx/model\.onnx gives NaN or infinity .* \(batches of {batch}\)"):
        compared(Opened("runtime", outputs, []), answers, "onnx/model.onnx")
    all_nan = {size: {"logits": torch.full_like(one["logits"], value)} for size, one in outputs.items()}
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        compared(Opened("runtime", all_nan, []), answers)


@pytest.mark.parametrize("broken", quantization.METHODS)
def test_a_quantized_graph_that_gives_nan_is_not_chosen(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(quantization, "quantize_int8", lambda program, method, images: Program(method, {}, ["logits"]))
    monkeypatch.setattr(quantization, "float_share", lambda graph: 0.0)

    def run(program: Program, images: Reference) -> dict[str, torch.Tensor]:
        logits = images.outputs["logits"] + 0.1
        return {"logits": logits * math.nan if program.value == broken else logits}

    chosen: Quantized = best_int8(Program("graph", {}, ["logits"]), reference(), run)
    assert chosen.method != broken
    row: dict[str, Any] = chosen.to_dict()
    assert list(row["errors"]) == [chosen.method]
