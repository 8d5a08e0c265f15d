"""The task in a card is that of the class, and the Python of the card loads models of every task."""

import re
from pathlib import Path
from typing import Any

import pytest
import transformers

import hf_vbp
from hf_vbp.card.metadata import card_metadata
from hf_vbp.card.model_task import task_by_name
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.checkpoint.receipt import applicable_ways
from hf_vbp.hub.model_task import model_task
from tests.families.running import BY_NAME
from tests.families.zoo import FAMILIES
from tests.hub.helpers import make_results

# By hand: the filters of https://huggingface.co/models, and the classes that no filter describes.
TAGS = {
    r"\w+ForImageClassification\w*": "image-classification",
    r"\w+For(Semantic|Universal)?Segmentation": "image-segmentation",
    r"(OwlViT|Owlv2)ForObjectDetection": "zero-shot-object-detection",
    r"(Detr|RTDetr|Yolos)ForObjectDetection": "object-detection",
    r"\w+ForDepthEstimation": "depth-estimation",
    r"\w+ForVideoClassification": "video-classification",
    r"ASTForAudioClassification": "audio-classification",
    r"(CLIP|MetaClip2|Siglip|Siglip2)Model": "zero-shot-image-classification",
    r"Sam2?Model": "mask-generation",
    r"VitPoseForPoseEstimation": "keypoint-detection",
    r"(Llava|Idefics3|Qwen2VL|Qwen2_5_VL|Qwen3VL)ForConditionalGeneration": "image-text-to-text",
    r"GitForCausalLM|VisionEncoderDecoderModel": "image-text-to-text",
    r"\w+Backbone|\w+Vision(Model\w*|Transformer\w*)": "image-feature-extraction",
    r"(Beit|ConvNext|ConvNextV2|DINOv3ConvNext|DINOv3ViT|DeiT|Dinov2|Dinov2WithRegisters|DonutSwin|Hiera|ImageGPT|"
    r"Sam2HieraDet|Segformer|Swin|ViT|ViTMAE)Model": "image-feature-extraction",
    r"(AST|VideoMAE|VJEPA2)Model": None,
    r"\w+ForMaskedImageModeling|(ViTMAE|VideoMAE)ForPreTraining": None,
}
SAMPLES = {r"AST\w+": "recording", r"(VideoMAE|VJEPA2|Timesformer|Vivit)\w+": "video"}
CLASSES = {family.class_name for family in FAMILIES}


def expected(table: dict[str, Any], name: str) -> Any:
    found = {value for pattern, value in table.items() if re.fullmatch(pattern, name)}
    assert len(found) <= 1
    return found.pop() if found else "missing"


def described(name: str, model_type: str) -> dict[str, Any]:
    return make_results()["base_model"] | {"architecture": name, "model_type": model_type}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_tag_of_every_class_of_the_zoo(name: str) -> None:
    model_type = getattr(transformers, name).config_class.model_type if hasattr(transformers, name) else "qwen2_vl"
    results = make_results(base_model=described(name, model_type))
    facts = make_facts(results, repo_id="me/x", task=model_task(results))
    assert card_metadata(facts, {}).get("pipeline_tag") == expected(TAGS, name)
    sample = expected(SAMPLES, name)
    assert facts.cost_table.rows[1][0] == f"MACs of one {'image' if sample == 'missing' else sample}"


def test_a_class_that_transformers_does_not_know_is_filed_by_its_name() -> None:
    names = {"OwnForImageClassification": "image-classification", "OwnModel": "image-feature-extraction", "Own": None}
    for name, tag in names.items():
        assert model_task({"base_model": described(name, "own")}) == task_by_name(name)
        assert task_by_name(name).pipeline_tag == tag


@pytest.mark.parametrize(
    "name",
    [
        "YolosForObjectDetection",
        "OwlViTForObjectDetection",
        "SegformerForSemanticSegmentation",
        "DepthAnythingForDepthEstimation",
        "Dinov2Model",
        "Dinov2Backbone",
        "MetaClip2VisionModel",
        "VitPoseForPoseEstimation",
        "Qwen2VisionTransformerPretrainedModel",
    ],
)
def test_the_python_of_the_card_loads_the_class(name: str, tmp_path: Path) -> None:
    family = BY_NAME[name]
    batch = family.batch(2)
    config = hf_vbp.VBPConfig.preset("paper", ratio=0.3)
    result = hf_vbp.prune(family.build(), [batch], config)
    result.save_pretrained(tmp_path / "small", verify=False)
    rows = [
        {"way": way, "transformers": "5.24.0", "max_abs_difference": 0.0}
        for way in applicable_ways(tmp_path / "small")
    ]
    results = {**result.results, "receipt": rows}
    card = render_card(make_facts(results, task=model_task(results), has_processor=False))
    blocks = re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M)
    assert len(blocks) == len(rows)
    for block, row in zip(blocks, rows, strict=True):
        scope: dict[str, Any] = {}
        exec(block.replace("path/to/this/folder", str(tmp_path / "small")), scope)
        assert type(scope["model"]).__name__ == name
        from_code = type(scope["model"]).__module__.startswith("transformers_modules")
        assert from_code == (row["way"] == "remote_code")
