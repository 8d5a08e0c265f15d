"""The lines in the messages of refused models run as they stand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.workflow.loading import LoadedModel, load_structure
from hf_vbp.workflow.requests import check_images_alone

from .contract import TOWERS, WHOLE
from .processors import TORCHVISION, image, processor_of, video
from .running import BY_NAME, model_of

assert {family.name for family in WHOLE} <= TOWERS.keys()
TORCHVISION_ONLY = pytest.mark.skipif(not TORCHVISION, reason="the processor needs torchvision (make test-vision)")


def lines_of(error: pytest.ExceptionInfo[Any]) -> str:
    """The Python lines of a message."""
    text = str(error.value)
    return text[text.index("import hf_vbp;") :]


@pytest.mark.parametrize("name", [family.name for family in WHOLE])
def test_the_lines_prune_the_tower_of_a_language_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = BY_NAME[name].build()
    with pytest.raises(UnsupportedModelError, match="generates text from images") as error:
        prepare(model)
    batch = BY_NAME[name].batch(4)

    def processor(images: list[Any], return_tensors: str) -> dict[str, torch.Tensor]:
        return batch

    dense = sum(parameter.numel() for parameter in model.get_submodule(TOWERS[name]).parameters())
    monkeypatch.chdir(tmp_path)
    exec(lines_of(error), {"model": model, "processor": processor, "images": []})
    assert sum(parameter.numel() for parameter in model.get_submodule(TOWERS[name]).parameters()) < dense
    assert json.loads(Path("pruned/config.json").read_text())["vision_config"]["vbp"]["widths"]


@pytest.mark.parametrize("name", [family.name for family in WHOLE])
def test_the_command_line_names_the_tower_from_the_config_alone(name: str, tmp_path: Path) -> None:
    config = model_of(name).config.to_dict() | {"architectures": [name]}
    type(model_of(name).config).from_dict(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError) as error:
        load_structure(str(tmp_path))
    code = lines_of(error)
    compile(code, "message", "exec")
    assert f"from transformers import {name}, AutoImageProcessor; " in code
    assert f"model = {name}.from_pretrained({str(tmp_path)!r})" in code
    assert re.search(r"hf_vbp\.prune\(model\.([\w.]+),", code)[1] == TOWERS[name]  # type: ignore[index]


def test_a_model_of_texts_is_not_called_one_of_images(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "num_layers": 1,
                    "d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "vocab_size": 16})
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="generates text, which hf_vbp does not prune") as error:
        load_structure(str(tmp_path))
    assert "from images" not in str(error.value)


@pytest.mark.parametrize("name", ["VideoMAEForVideoClassification", "VideoMAEForPreTraining"])
def test_the_lines_prune_a_model_of_videos(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    processor = processor_of(BY_NAME[name], model)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedModelError, match=rf"^model \({name}\) takes ") as error:
        check_images_alone(LoadedModel("model", model, processor))
    code = lines_of(error).replace("processor(...,", "processor([video(seed) for seed in range(4)],")
    exec(code.replace("processor=processor)", "processor=processor, verify=False)"), {"video": video})
    assert type(hf_vbp.from_pretrained("pruned", auto_class=type(model))) is type(model)


@pytest.mark.parametrize("name", ["SamModel", pytest.param("Sam2Model", marks=TORCHVISION_ONLY)])
def test_the_lines_prune_a_model_with_prompts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    processor = processor_of(BY_NAME[name], model)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedModelError, match=rf"^model \({name}\) takes prompts .*input_points") as error:
        check_images_alone(LoadedModel("model", model, processor))
    found: dict[str, Any] = {"images": [image(seed) for seed in range(4)]}
    exec(lines_of(error).replace("processor=processor)", "processor=processor, verify=False)"), found)
    assert {"pixel_values", "input_points"} <= found["batches"][0].keys()
    assert sum(found["result"].plan.widths) < sum(found["result"].plan.dense_widths)
    assert type(hf_vbp.from_pretrained("pruned", auto_class=type(model))) is type(model)


@pytest.mark.parametrize("name", ["SamModel", "Sam2Model", "SamVisionModel", "Sam2VisionModel", "Sam2HieraDetModel"])
def test_only_models_with_prompts_are_refused_for_them(name: str) -> None:
    loaded = LoadedModel("model", model_of(name), None)
    if name in ("SamModel", "Sam2Model"):
        with pytest.raises(UnsupportedModelError, match="the command line prepares none"):
            check_images_alone(loaded)
    else:
        check_images_alone(loaded)


def test_the_lines_import_a_class_that_transformers_does_not_export() -> None:
    name = "Qwen2VisionTransformerPretrainedModel"
    with pytest.raises(UnsupportedModelError) as error:
        check_images_alone(LoadedModel("model", model_of(name), None))
    code = lines_of(error)
    compile(code, "message", "exec")
    imports = code.partition("; model = ")[0]
    found: dict[str, Any] = {}
    exec(imports, found)
    assert found[name] is type(model_of(name))
