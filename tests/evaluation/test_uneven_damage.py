"""Figures of uneven damage: the calibration error, and the accuracy of each class."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import hf_vbp
from hf_vbp.evaluation import CalibrationError, evaluate_models
from hf_vbp.results.lost_classes import lost_classes


def reference_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Bin by bin, as in the paper: the mean over images of |accuracy - confidence| of their bin."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - confidence[inside].mean())
    return total / len(confidence)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_calibration_error_equals_that_of_bins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0, 1, 500)
    correct = (generator.uniform(0, 1, 500) < confidence**2).astype(int)
    found = CalibrationError().compute(predictions=confidence.tolist(), references=correct.tolist())["ece"]
    assert found == pytest.approx(reference_ece(confidence, correct), abs=1e-12)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not() -> None:
    assert CalibrationError().compute(predictions=[1.0, 1.0], references=[1, 1])["ece"] == 0
    assert CalibrationError().compute(predictions=[1.0, 1.0], references=[0, 0])["ece"] == 1


def test_evaluations_hold_both(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    found = evaluate_models({"dense": vit}, batches)["dense"].to_dict()
    with torch.no_grad():
        probabilities = torch.cat([vit(pixel_values=b["pixel_values"]).logits for b in batches]).double().softmax(-1)
    labels = torch.cat([b["labels"] for b in batches])
    right = (probabilities.argmax(-1) == labels).double()
    assert found["ece"] == pytest.approx(reference_ece(probabilities.max(-1).values.numpy(), right.numpy()), abs=1e-6)
    assert found["classes"] == {
        str(int(label)): {"images": int((labels == label).sum()), "top1": float(right[labels == label].mean())}
        for label in labels.unique()
    }
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in batches]
    assert not {"ece", "classes"} & evaluate_models({"dense": vit}, unlabelled)["dense"].to_dict().keys()


def test_results_name_the_classes(vit: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    vit.config.id2label = {0: "cat", 1: "dog", 2: "owl", 3: "ant", 4: "bee"}
    result = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.5), eval_data=batches)
    classes = result.results["evaluation"]["pruned"]["classes"]
    assert {row["label"] for row in classes.values()} <= set(vit.config.id2label.values())
    assert sum(row["images"] for row in classes.values()) == 30


def test_only_classes_with_enough_images_that_lose_are_named() -> None:
    def row(label: str, images: int, top1: float) -> dict[str, Any]:
        return {"label": label, "images": images, "top1": top1}

    before = {"classes": {"0": row("a", 10, 0.9), "1": row("b", 9, 0.9), "2": row("c", 50, 0.5), "3": row("d", 20, 1)}}
    after = {
        "classes": {"0": row("a", 10, 0.7), "1": row("b", 9, 0.0), "2": row("c", 50, 0.6), "3": row("d", 20, 0.5)}
    }
    assert lost_classes(before, after) == [("d", 20, 1, 0.5), ("a", 10, 0.9, 0.7)]
    assert lost_classes({}, after) == []
