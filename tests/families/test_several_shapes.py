"""Photographs of both orientations and the image processors that keep their shape, with their own settings.

Their sizes alone are made small, as those of the models are.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hf_vbp
from hf_vbp.config.requirements import Requirements
from hf_vbp.results.record import load_results
from tests.calibration.worker import prepared
from tests.cli.helpers import run

from .running import model_of

DETECTION = {"size": {"shortest_edge": 32, "longest_edge": 48}}
SEGMENTATION = {"size": {"shortest_edge": 64, "longest_edge": 96}}
DEPTH = {"keep_aspect_ratio": True, "size": {"height": 32, "width": 32}, "ensure_multiple_of": 8}
SEGMENTER = "Mask2FormerForUniversalSegmentation"
# The image processor, the changed settings, and a model of the zoo that takes its images.
PROCESSORS: dict[str, tuple[dict[str, Any], str]] = {
    "Detr": (DETECTION, "DetrForObjectDetection"),
    "Yolos": (DETECTION, "YolosForObjectDetection"),
    "DPT": (DEPTH, "DepthAnythingForDepthEstimation"),
    "ConditionalDetr": (DETECTION, "DetrForObjectDetection"),
    "Mask2Former": (SEGMENTATION, SEGMENTER),
    "MaskFormer": (SEGMENTATION, SEGMENTER),
    "OneFormer": (SEGMENTATION, SEGMENTER),
    "GLPN": ({}, "GLPNForDepthEstimation"),
    "ZoeDepth": (DEPTH, "ZoeDepthForDepthEstimation"),
}
# Height and width; consecutive images of one shape are a batch of their own.
SIZES = [(40, 64), (40, 64), (64, 40), (40, 64), (64, 40), (64, 40), (48, 48)]


def photographs(folder: Path, seed: int) -> Path:
    """Save images of noise, landscape and portrait."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def processor_of(name: str) -> Any:
    import transformers

    return getattr(transformers, f"{name}ImageProcessorPil")(**PROCESSORS[name][0])


@pytest.mark.parametrize("name", ["Detr", "Yolos", "DPT"])
def test_models_are_pruned_and_measured_on_them(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, measured = tmp_path / "model", photographs(tmp_path / "a", 0), photographs(tmp_path / "b", 1)
    model_of(PROCESSORS[name][1]).save_pretrained(model)
    processor_of(name).save_pretrained(model)
    options = ["--data", data, "--eval-data", measured, "--ratio", "0.3", "--output", tmp_path / "pruned"]
    ran = run(["prune", model, *options], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    results = load_results(tmp_path / "pruned")
    assert results["evaluation"]["pruned"]["images"] == len(SIZES)
    assert results["evaluation"]["pruned"]["output_distance"]["mean"] > 0


@pytest.mark.parametrize("name", PROCESSORS)
def test_no_batch_size_changes_what_is_counted(name: str, tmp_path: Path) -> None:
    model, folder = model_of(PROCESSORS[name][1]), photographs(tmp_path / "photographs", 0)
    found = []
    for size in (1, 4):
        images = hf_vbp.load_images(folder, processor_of(name), batch_size=size)
        found.append(hf_vbp.collect_statistics(model, images, Requirements()))
    one, several = found
    shapes = {tuple(batch["pixel_values"].shape[1:]) for batch in images}
    assert len(shapes) > 1
    assert (one.images, one.tokens) == (several.images, several.tokens) == (len(SIZES), one.tokens)
    assert one.fingerprints["image_sketch"] == several.fingerprints["image_sketch"]
    for mine, theirs in zip(one.sites, several.sites, strict=True):
        torch.testing.assert_close(mine.moments.variance, theirs.moments.variance, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["Yolos", "DPT"])
def test_no_batch_size_changes_figures(name: str, tmp_path: Path) -> None:
    dense, folder = model_of(PROCESSORS[name][1]), photographs(tmp_path / "photographs", 0)
    paper = hf_vbp.VBPConfig(ratio=0.5, criterion="variance", compensation="mean")
    pruned = hf_vbp.prune(dense, hf_vbp.load_images(folder, processor_of(name)), paper).model
    found = []
    singly, several = (hf_vbp.load_images(folder, processor_of(name), batch_size=size) for size in (1, 4))
    for images in (singly, several, prepared(several.loader)):
        figures = hf_vbp.evaluate_models({"dense": dense, "pruned": pruned}, images)["pruned"]
        found.append(figures.output_distance.mean)
        assert figures.images == len(SIZES)
    assert found == pytest.approx([found[0]] * 3, rel=1e-3)
