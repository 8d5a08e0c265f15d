"""``hf-vbp inspect`` of every class from its config alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.adapters.prepared import prepare_structure
from hf_vbp.costs.counts import count_bytes, count_macs, count_parameters
from hf_vbp.workflow import inspect
from hf_vbp.workflow.loading import load_structure
from tests.cli.helpers import run

from .contract import FIRST, PRUNED
from .family import Family
from .running import BY_NAME, model_of

pytestmark = pytest.mark.processes

CLASSES = [
    pytest.param(family, id=name, marks=() if family.name in FIRST else pytest.mark.slow)
    for name, family in {family.class_name: family for family in reversed(PRUNED)}.items()
]
READ_VALUES = {
    "DetrForObjectDetection",
    "EomtForUniversalSegmentation",
    "Idefics3VisionTransformer",
    "ImageGPTModel",
    "Mask2FormerForUniversalSegmentation",
    "PerceiverForImageClassificationLearned",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
    "Siglip2Model",
    "VJEPA2Model",
}
"""Forward passes, or constructors, that use values or the CPU: the MACs are compared with those of the real model."""


def config_alone(family: Family, folder: Path) -> Path:
    """A folder with the config of a model and nothing else."""
    model_of(family.name).config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [family.class_name]}))
    return folder


@pytest.mark.parametrize("family", CLASSES)
def test_the_config_alone_gives_the_figures_of_the_model(family: Family, tmp_path: Path) -> None:
    model = model_of(family.name)
    found = inspect.inspect_model(prepare_structure(load_structure(str(config_alone(family, tmp_path)))))
    assert found["architecture"] == family.class_name
    assert {site["name"] for site in found["sites"]} == {site.parent for site in family.sites}
    # Of a model that takes texts too, its vision tower counts.
    counted = model.get_submodule(found["part"])
    assert found["parameters"] == count_parameters(counted)
    assert found["bytes"] == count_bytes(counted)
    if family.class_name in READ_VALUES:
        assert found["macs"] == count_macs(model, part=found["part"])
    assert "macs_not_counted" not in found
    assert all(0 <= site["macs"] < 1 for site in found["sites"])
    assert 0 < found["reachable"]["macs"] <= 1


def test_a_large_model_whose_pass_reads_values_is_inspected_without_macs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hf_vbp.ui.views import inspected

    family = BY_NAME["DetrForObjectDetection"]
    folder = config_alone(family, tmp_path)
    monkeypatch.setattr(inspect, "_MOST_RANDOM_PARAMETERS", 100)
    shown = " ".join(run(["inspect", folder], capfd, monkeypatch).out.split())
    assert "MACs not counted: the forward pass of DetrForObjectDetection needs the values" in shown
    assert "of the parameters remain." in shown
    assert all(site.parent in shown for site in family.sites)
    found: dict[str, Any] = json.loads(run(["inspect", folder, "--json"], capfd, monkeypatch).out)
    assert found["macs"] is found["reachable"]["macs"] is None
    assert {site["macs"] for site in found["sites"]} == {None}
    assert found["parameters"] == sum(parameter.numel() for parameter in model_of(family.name).parameters())
    page = inspected({**found, "model": "m", "merging": "no", "memory": 1, "download": 0, "processor": True})
    assert "not counted: the forward pass of DetrForObjectDetection" in page


def test_an_impossible_config_is_refused_whatever_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass that fails for another reason than missing values is no reason to leave the MACs out."""
    from hf_vbp.errors import UnsupportedModelError

    folder = config_alone(BY_NAME["ViTForImageClassification"], tmp_path)
    monkeypatch.setattr(inspect, "_MOST_RANDOM_PARAMETERS", 100)
    structure = load_structure(str(folder))
    structure.config.image_size = 24
    with pytest.raises(UnsupportedModelError, match="fails on pixel_values"):
        inspect.inspect_model(prepare_structure(structure))
