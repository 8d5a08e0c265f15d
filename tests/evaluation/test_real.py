"""Known accuracies of real models on real photographs."""

from pathlib import Path

import pytest
from transformers import AutoModelForImageClassification

from hf_vbp.data.loading import load_images
from hf_vbp.evaluation.models import evaluate_models


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "folder", "top1"),
    # Measured without this package: plain Pillow and normalization, and the Pillow backend of transformers.
    [("vit-cifar10", "cifar10/test", 0.7415), ("deit-tiny", "nips17/validation", 0.832)],
)
def test_accuracies_of_real_models(real_assets: Path, model_name: str, folder: str, top1: float) -> None:
    model = AutoModelForImageClassification.from_pretrained(real_assets / model_name)
    images = load_images(real_assets / folder, model=model, purpose="evaluation", require_labels=True)
    found = evaluate_models({"dense": model}, images.loader)["dense"]
    assert found.images == images.images
    assert found.top1 == pytest.approx(top1, abs=0.0006)
