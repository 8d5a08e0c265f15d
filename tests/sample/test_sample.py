"""The built-in sample: small, loadable, and a demonstration of the method."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

import hf_vbp
from hf_vbp.adapters.registry import find_sites
from hf_vbp.data.loading import load_images
from hf_vbp.errors import DataError
from hf_vbp.sample import SPLITS, sample_images, sample_model_path


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForImageClassification.from_pretrained(sample_model_path()).eval()


def test_all_of_it_is_small() -> None:
    assert sum(file.stat().st_size for file in Path(sample_model_path()).glob("*.*")) < 2_000_000


def test_the_checkpoint_is_a_stock_one(model: Any) -> None:
    assert type(model).__name__ == "ViTForImageClassification"
    assert not hasattr(model.config, "vbp")
    assert [site.intermediate_size for site in find_sites(model)] == [64] * 5
    assert sorted(model.config.id2label.values()) == sorted(sample_images().features["label"].names)


@pytest.mark.parametrize(("split", "images"), [("calibration", 320), ("evaluation", 640)])
def test_the_splits(split: str, images: int, model: Any) -> None:
    data = load_images("sample", model=model, split=split, purpose="evaluation", batch_size=64)
    assert data.images == images
    assert data.labelled
    batch = next(iter(data.loader))
    assert batch["pixel_values"].shape == (64, 3, 24, 24)
    assert (data.provenance["source"], data.provenance["split"]) == ("sample", split)
    assert data.provenance["fingerprint"].startswith("sha256:")


def test_the_purpose_chooses_the_split_and_others_are_refused(model: Any) -> None:
    assert load_images("sample", model=model).provenance["split"] == "calibration"
    assert load_images("sample", model=model, purpose="evaluation").provenance["split"] == "evaluation"
    with pytest.raises(DataError, match="no split 'train'; its splits are calibration, evaluation"):
        load_images("sample", model=model, split="train")


def test_no_image_is_in_both_splits() -> None:
    calibration, evaluation = ({row["image"]["bytes"] for row in raw(split)} for split in SPLITS)
    assert (len(calibration), len(evaluation)) == (320, 640)
    assert not calibration & evaluation


def raw(split: str) -> Any:
    import datasets

    return sample_images(split).cast_column("image", datasets.Image(decode=False))


def hidden_activations(model: Any, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """The inputs of each fc2, ``(tokens of all images, hidden)``."""
    seen: list[torch.Tensor] = []
    hooks = [
        site.fc2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
        for site in find_sites(model)
    ]
    with torch.inference_mode():
        model(pixel_values=pixel_values)
    for hook in hooks:
        hook.remove()
    return seen


def pruned_top1(model: Any, images: Any, activations: list[torch.Tensor], *, ratio: float, mean_shift: bool) -> float:
    """Top-1 with the neurons of least variance replaced by zero or by their mean: the method, written out."""
    variances = torch.stack([values.double().var(dim=0) for values in activations])
    threshold = variances.flatten().sort().values[int(ratio * variances.numel()) - 1]
    hooks = []
    for site, values, variance in zip(find_sites(model), activations, variances, strict=True):
        stand_in = values.mean(dim=0) if mean_shift else torch.zeros_like(values[0])
        gone = variance <= threshold
        hooks.append(
            site.fc2.register_forward_pre_hook(
                lambda _, inputs, gone=gone, stand_in=stand_in: (torch.where(gone, stand_in, inputs[0]),)
            )
        )
    found = hf_vbp.evaluate_models({"dense": model}, images.loader)["dense"].top1
    for hook in hooks:
        hook.remove()
    assert found is not None
    return found


def test_it_demonstrates_the_mean_shift(model: Any) -> None:
    """At half of the neurons, pruning alone loses accuracy, and the mean shift recovers part of it."""
    calibration = torch.cat([batch["pixel_values"] for batch in load_images("sample", model=model, batch_size=64)])
    evaluation = load_images("sample", model=model, purpose="evaluation", batch_size=64)
    dense = hf_vbp.evaluate_models({"dense": model}, evaluation.loader)["dense"].top1
    activations = hidden_activations(model, calibration)
    none, mean = (pruned_top1(model, evaluation, activations, ratio=0.5, mean_shift=shift) for shift in (False, True))
    assert dense is not None
    assert 0.90 < dense < 0.99
    assert none < dense - 0.08
    assert mean > none + 0.04


def test_the_script_composes_the_shipped_images() -> None:
    pytest.importorskip("sklearn")
    import importlib.util

    path = Path(__file__).parents[2] / "scripts" / "make_sample.py"
    if not path.is_file():
        pytest.skip("the script is not part of this installation")
    spec = importlib.util.spec_from_file_location("make_sample", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_sample"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    training, evaluation = script.split_digits(seed=20)
    assert len(training.labels) + len(evaluation.labels) == 1797
    pixels, labels = script.compose_many(evaluation, 640, seed=20 + 2_000_000)
    shipped = sample_images("evaluation")
    assert labels.tolist() == shipped["label"]
    differences = [
        np.abs(np.asarray(shipped[index]["image"], dtype=int) - pixels[index].astype(int)).mean()
        for index in range(20)
    ]
    assert max(differences) < 12  # JPEG loses a little; another composition would differ by some 60
