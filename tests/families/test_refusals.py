"""The lines in the messages of refused models run as they stand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hf_vbp
from hf_vbp.adapters.modalities import generates_text
from hf_vbp.adapters.prepared import prepare
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.workflow.loading import LoadedModel, load_structure
from hf_vbp.workflow.requests import check_images_alone

from .contract import TOWERS, WHOLE, tower_config
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
    assert tower_config(name, json.loads(Path("pruned/config.json").read_text()))["vbp"]["widths"]


def test_the_lines_leave_out_tiles_of_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaVA-NeXT: an axis of the tiles of an image, padded with zeros."""
    model = BY_NAME["LlavaForConditionalGeneration"].build()
    with pytest.raises(UnsupportedModelError) as error:
        prepare(model)
    pixels = BY_NAME["CLIPVisionModel"].batch(6)["pixel_values"].unflatten(0, (2, 3))
    pixels[1, 1:] = 0
    given: list[torch.Tensor] = []
    monkeypatch.setattr(hf_vbp, "prune", lambda tower, batches, *_, **__: given.append(batches[0]["pixel_values"]))
    monkeypatch.chdir(tmp_path)
    found = {"model": model, "processor": lambda images, return_tensors: {"pixel_values": pixels}, "images": []}
    exec(lines_of(error), found)
    assert torch.equal(given[0], torch.cat([pixels[0], pixels[1, :1]]))


@pytest.mark.parametrize(
    ("name", "config", "generates"),
    [
        ("BlipForQuestionAnswering", "BlipConfig", True),
        ("IdeficsForVisionText2Text", "IdeficsConfig", True),
        ("Phi4MultimodalForCausalLM", "Phi4MultimodalConfig", True),
        ("GitForCausalLM", "GitConfig", True),
        ("GitVisionModel", "GitVisionConfig", False),
        ("BlipForImageTextRetrieval", "BlipConfig", False),
        ("ImageGPTForCausalImageModeling", "ImageGPTConfig", False),
        ("LlamaForCausalLM", "LlamaConfig", False),
    ],
)
def test_which_classes_generate_text_from_images(name: str, config: str, generates: bool) -> None:
    assert generates_text(name, getattr(transformers, config)()) is generates


def test_the_base_model_of_git_is_refused_too() -> None:
    model = model_of("GitForCausalLM").git
    with pytest.raises(UnsupportedModelError, match=r"GitModel generates text.*hf_vbp\.prune\(model\.image_encoder,"):
        prepare(model)


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
