"""Models of other tasks, merged tokens, and the other formats: exported with the outputs of their task."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import hf_vbp
from hf_vbp.export.conversion import convert, save
from hf_vbp.export.formats import FORMATS
from hf_vbp.export.inputs import exported_module, task_outputs, traced_inputs
from hf_vbp.export.parity import Limits, check_parity, compared, open_in_fresh_process
from hf_vbp.export.reference import Reference, reference_of
from tests.families.zoo import FAMILIES
from tests.token_merging.models import inputs_of, make

from .conftest import Work, export

COUNTS = [0, 3, 2]
OUTPUTS = {
    "YolosForObjectDetection": ["logits", "pred_boxes"],
    "DetrForObjectDetection": ["logits", "pred_boxes"],
    "DepthAnythingForDepthEstimation": ["predicted_depth"],
    "CLIPModel": ["image_embeds"],
    "Dinov2Model": ["last_hidden_state", "pooler_output"],
    "Dinov2Backbone": ["feature_maps.0", "feature_maps.1"],
    "SegformerForSemanticSegmentation": ["logits"],
    "ViTForImageClassification-multi_label": ["logits"],
}
IN_SUITE = ("YolosForObjectDetection", "CLIPModel")


def opened(module: Any, batch: dict[str, Any], name: str, folder: Path) -> tuple[Any, Reference]:
    """What a fresh process makes of the exported model, and the answers of PyTorch."""
    form = FORMATS[name]
    reference = reference_of(module, [batch], "made", limit=len(next(iter(batch.values()))))
    program = convert(module, traced_inputs(module, batch), form)
    path = folder / "program" / form.files["fp32"]
    save(program, form, path, "fp32")
    reference = reference.named(program.outputs)
    return open_in_fresh_process(form, path, reference, folder), reference


def test_the_answers_are_of_as_many_images_as_asked_for() -> None:
    family = next(family for family in FAMILIES if family.name == "ImageGPTForImageClassification")
    batches = [family.batch(2), family.batch(2, 0, 2)]
    reference = reference_of(exported_module(family.build().eval()), batches, "made", limit=3)
    assert {len(value) for value in (*reference.inputs.values(), *reference.outputs.values())} == {3}


@pytest.mark.parametrize(
    "name", [name if name in IN_SUITE else pytest.param(name, marks=pytest.mark.slow) for name in OUTPUTS]
)
def test_models_of_other_tasks_give_the_outputs_of_their_task(name: str, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    found, reference = opened(exported_module(family.build().eval()), family.batch(4), "onnx", tmp_path)
    assert list(found.outputs[1]) == OUTPUTS[name]
    figures = compared(found, reference)
    check_parity(name, figures, Limits.of("fp32", reference))
    assert figures["max_scaled_difference"] < 1e-4


@pytest.mark.parametrize(
    "form",
    [
        # tests/token_merging compares ONNX in the suite.
        pytest.param("onnx", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
        pytest.param("torch-export", marks=pytest.mark.slow),
    ],
)
def test_merged_tokens_are_part_of_the_program(form: str, tmp_path: Path) -> None:
    pytest.importorskip(form.replace("-", "."))
    model: Any = make("ViTForImageClassification")
    batch = inputs_of(model, images=7)
    with torch.no_grad():
        unmerged = model(**batch).logits
    hf_vbp.merge_tokens(model, COUNTS)
    found, reference = opened(model, batch, form, tmp_path)
    assert reference.difference(found.outputs[1]) < 1e-4
    assert reference.difference(found.outputs[3]) < 1e-4
    assert float((found.outputs[1]["logits"] - unmerged).abs().max()) > 0.1


def test_openvino_files_and_torch_export_in_bfloat16(work: Work, tmp_path: Path) -> None:
    from .conftest import NO_TIME, require_openvino

    require_openvino()
    from hf_vbp.export.files import ExportOptions

    rows = export(
        work.pruned, output=tmp_path / "ov", format="openvino", options=ExportOptions(("fp16",), timing=NO_TIME)
    )
    assert [row["file"] for row in rows] == ["openvino/openvino_model.xml", "openvino/openvino_model_fp16.xml"]
    assert all(set(row["files"]) == {row["file"], row["file"].replace(".xml", ".bin")} for row in rows)
    sizes = [(tmp_path / "ov" / row["file"]).with_suffix(".bin").stat().st_size for row in rows]
    assert sizes[1] < 0.6 * sizes[0]
    assert max(row["max_abs_difference"] for row in rows) < 1e-2
    from hf_vbp.workflow.loading import Loading

    (row,) = export(work.pruned, output=tmp_path / "pt", format="torch-export", loading=Loading(dtype="bfloat16"))
    assert (row["precision"], row["file"], row["agreement"]) == ("bf16", "torch_export/model.pt2", 1.0)
    program = torch.export.load(tmp_path / "pt/torch_export/model.pt2")
    model = hf_vbp.from_pretrained(work.pruned, dtype=torch.bfloat16)
    pixels = torch.randn(3, 3, 32, 32).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixel_values=pixels)["logits"], model(pixels).logits)
    for folder in (tmp_path / "ov/openvino", tmp_path / "pt/torch_export"):
        for path in folder.iterdir():
            assert str(Path(torch.__file__).parents[1]).encode() not in path.read_bytes()


def test_outputs_inside_the_model_are_left_out() -> None:
    inner = ["last_hidden_state", "hidden_states.0", "encoder_last_hidden_state", "attentions.1"]
    assert task_outputs(["logits", "pred_boxes", *inner]) == ["logits", "pred_boxes"]
    assert task_outputs(["last_hidden_state", "pooler_output"]) == ["last_hidden_state", "pooler_output"]
    assert task_outputs(["last_hidden_state"]) == ["last_hidden_state"]


# The line of docs/deploy.md, and the other choice that it names.
@pytest.mark.parametrize("config", ["Int8DynamicActivationInt8WeightConfig", "Int8WeightOnlyConfig"])
@pytest.mark.parametrize("round_to", [1, 32])
def test_torchao_quantizes_the_weights_of_a_pruned_model(config: str, round_to: int) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    from tests.conftest import make_model

    documented = (Path(__file__).parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
    assert config in documented
    model = make_model("vit", intermediate_size=96, num_hidden_layers=2)
    batches = [{"pixel_values": torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(i))} for i in (0, 1)]
    pruned = hf_vbp.prune(model, batches, hf_vbp.VBPConfig(ratio=0.5, round_to=round_to)).model
    names = {name for name, module in pruned.named_modules() if isinstance(module, torch.nn.Linear)}
    widths = {module.out_features % 32 for name, module in pruned.named_modules() if name.endswith("fc1")}
    assert (widths == {0}) == (round_to == 32)
    with torch.no_grad():
        expected = pruned(**batches[0]).logits
        torchao.quantize_(pruned, getattr(torchao, config)())
        found = pruned(**batches[0]).logits
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert all(type(pruned.get_submodule(name).weight).__name__ == "Int8Tensor" for name in names)
