"""``hf-vbp prune MODEL --data IMAGES --ratio 0.3`` of models whose image processors make other inputs than pixels."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from hf_vbp.data.processing import Transform
from hf_vbp.results.record import load_results
from tests.cli.helpers import run, save_images

from .processors import image, processor_of
from .running import BY_NAME, model_of

OTHER_INPUTS = {
    "ImageGPTForImageClassification": {"input_ids"},
    "ImageGPTModel": {"input_ids"},
    "Siglip2ForImageClassification": {"pixel_values", "pixel_attention_mask", "spatial_shapes"},
    "Siglip2VisionModel": {"pixel_values", "pixel_attention_mask", "spatial_shapes"},
}


def saved(name: str, folder: Path) -> Path:
    model = model_of(name)
    model.save_pretrained(folder)
    processor_of(BY_NAME[name], model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["VitPoseForPoseEstimation", "Siglip2ForImageClassification", "Siglip2VisionModel", "ImageGPTModel"]
)
def test_a_model_is_pruned_with_no_further_option(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, output = saved(name, tmp_path / "model"), save_images(tmp_path / "images", 1), tmp_path / "pruned"
    ran = run(["prune", model, "--data", images, "--ratio", "0.3", "--output", output], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert "import" in {row["way"] for row in load_results(output)["receipt"]}


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_the_inputs_are_those_of_the_processor(name: str) -> None:
    processor = processor_of(BY_NAME[name], model_of(name))
    made = Transform(processor).inputs(image())
    expected = processor(images=image(), return_tensors="pt")
    assert made.keys() == OTHER_INPUTS[name]
    assert all(torch.equal(value, expected[key][0]) for key, value in made.items())


def test_the_box_of_vitpose_is_the_whole_image() -> None:
    """The processor crops to the box, widened to the shape of its images: an image of this shape is only resized."""
    processor = processor_of(BY_NAME["VitPoseForPoseEstimation"], model_of("VitPoseForPoseEstimation"))
    whole = image().resize((64, 64))
    expected = processor(images=whole, boxes=[[[0.0, 0.0, 64.0, 64.0]]], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(Transform(processor)(whole), expected)
    other = processor(images=whole, boxes=[[[0.0, 0.0, 32.0, 32.0]]], return_tensors="pt")["pixel_values"][0]
    assert not torch.equal(other, expected)


def test_masks_of_ordinary_images_are_left_out() -> None:
    """Every batch holds images of one shape, which are not padded, so the mask of a single one excludes nothing."""
    processor = processor_of(BY_NAME["DetrForObjectDetection"], model_of("DetrForObjectDetection"))
    assert "pixel_mask" in processor(images=image(), return_tensors="pt")
    assert Transform(processor).inputs(Image.new("RGB", (40, 40))).keys() == {"pixel_values"}
