"""The main job on real weights and photographs, where they are available."""

from pathlib import Path
from typing import Any

import pytest

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.evaluation.models import evaluate_models
from hf_vbp.workflow.loading import load_model
from hf_vbp.workflow.prune import prune
from hf_vbp.workflow.requests import DataRequest

pytestmark = pytest.mark.real


def accuracies(model: Path, calibration: Path, evaluation: Path, limit: int | None = None) -> dict[str, float]:
    """Top-1 of the dense model and at a ratio of 0.5 without and with the paper's mean shift."""
    loaded = load_model(str(model))
    images = DataRequest(str(calibration), limit=limit, batch_size=50).open(loaded, "calibration")
    statistics = collect_statistics(loaded.model, images, VBPConfig.preset("paper"))
    models: dict[str, Any] = {"dense": loaded.model}
    for compensation in ("none", "mean"):
        config = VBPConfig(ratio=0.5, criterion="variance", compensation=compensation)
        models[compensation] = prune(loaded.model, None, config, statistics=statistics).model
        assert 2 * sum(s.intermediate_size for s in find_sites(models[compensation])) == sum(
            s.intermediate_size for s in find_sites(loaded.model)
        )
    labelled = DataRequest(str(evaluation), batch_size=50).open(loaded, "evaluation")
    found = evaluate_models(models, labelled.loader)
    return {name: float(evaluation.top1 or 0) for name, evaluation in found.items()}


def test_a_small_vit_on_cifar10(real_assets: Path) -> None:
    cifar10 = real_assets / "cifar10"
    found = accuracies(real_assets / "vit-cifar10", cifar10 / "train", cifar10 / "test", limit=500)
    assert found["dense"] == pytest.approx(0.737, abs=0.005)
    assert found["none"] < found["mean"] < found["dense"]


@pytest.mark.slow
def test_deit_tiny_on_photographs(real_assets: Path) -> None:
    photographs = real_assets / "nips17"
    found = accuracies(real_assets / "deit-tiny", photographs / "calibration", photographs / "validation")
    assert found["dense"] == pytest.approx(0.832, abs=0.004)
    # Two standard errors of 500 images around an independent measurement: 25.8 and 52.8 %.
    assert found["none"] == pytest.approx(0.258, abs=0.04)
    assert found["mean"] == pytest.approx(0.528, abs=0.045)
