"""``hf-vbp inspect`` of every class from its config alone."""

import copy
import functools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_vbp.adapters.prepared import prepare_structure
from hf_vbp.costs.counts import count_bytes, count_parameters
from hf_vbp.inputs.batch import model_inputs
from hf_vbp.inputs.example import example_batch
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


def config_alone(family: Family, folder: Path) -> Path:
    """A folder with the config of a model and nothing else."""
    model_of(family.name).config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [family.class_name]}))
    return folder


def macs_with_values(model: Any, part: str) -> int:
    """The MACs of a forward pass with the weights, of the whole model or of a part of it."""
    counter = FlopCounterMode(display=False)
    # Without gradients: the counter cannot follow a module that returns one of its parameters.
    plain = copy.deepcopy(model).requires_grad_(False).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        plain(**model_inputs(plain, example_batch(plain)))
    return sum(counter.get_flop_counts()[f"{type(model).__name__}.{part}" if part else "Global"].values()) // 2


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
    assert found["macs"] == macs_with_values(model, found["part"])
    assert "macs_not_counted" not in found
    assert all(0 <= site["macs"] < 1 for site in found["sites"])
    assert 0 < found["reachable"]["macs"] <= 1


TOWER = """
import json, resource, sys
import torch, transformers
from hf_vbp.adapters.prepared import prepare_structure
from hf_vbp.workflow.inspect import inspect_model
from hf_vbp.workflow.loading import load_structure

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

inspect_model(prepare_structure(load_structure("sample")))
before = peak()
found = {folder: inspect_model(prepare_structure(load_structure(folder))) for folder in sys.argv[1:]}
print(json.dumps([peak() - before, *found.values()]))
"""


def packed_tower(config: Any, mlp: int, output: int) -> tuple[int, int]:
    """Weights of the linear layers of a tower of Qwen, and MACs of an image of 4 x 4 patches, from shapes alone."""
    width, tokens = config.embed_dim if hasattr(config, "embed_dim") else config.hidden_size, 16
    patch = config.in_channels * config.temporal_patch_size * config.patch_size**2 * width
    block = 4 * width**2 + mlp
    merged = 4 * width
    merger = merged * merged + merged * output
    weights = patch + config.depth * block + merger
    attention = config.depth * 2 * tokens**2 * width
    return weights, tokens * (patch + config.depth * block) + tokens // 4 * merger + attention


def test_towers_of_the_published_size_are_counted_without_their_memory(tmp_path: Path) -> None:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    first = Qwen2VLVisionConfig(depth=32, embed_dim=1280, hidden_size=3584, num_heads=16, mlp_ratio=4)
    second = Qwen2_5_VLVisionConfig(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584
    )
    towers = {
        "Qwen2VisionTransformerPretrainedModel": (first, packed_tower(first, 8 * 1280**2, 3584)),
        "Qwen2_5_VisionTransformerPretrainedModel": (second, packed_tower(second, 3 * 1280 * 3420, 3584)),
    }
    for name, (config, _) in towers.items():
        config.architectures = [name]
        config.save_pretrained(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", TOWER, *(str(tmp_path / name) for name in towers)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak, *found = json.loads(done.stdout)
    for (name, (_, (weights, macs))), figures in zip(towers.items(), found, strict=True):
        assert figures["architecture"] == name
        assert weights < figures["parameters"] < 1.01 * weights
        assert figures["macs"] == macs
    # Each of them has 2.6 GB of weights in float32.
    assert peak < 0.1 * 4 * found[0]["parameters"]


def test_a_tower_in_a_language_model_of_the_published_size_is_counted_alone(tmp_path: Path) -> None:
    """Seven billion parameters, and image tokens that no batch made from the configs has."""
    from transformers import CLIPVisionModel, LlavaConfig, LlavaModel, Qwen2VLConfig, Qwen2VLModel

    found = {}
    for one, config in ((LlavaModel, LlavaConfig()), (Qwen2VLModel, Qwen2VLConfig())):
        config.architectures = [one.__name__]
        config.save_pretrained(tmp_path / one.__name__)
        structure = load_structure(str(tmp_path / one.__name__))
        assert count_parameters(structure) > 6 * 10**9
        found[one] = inspect.inspect_model(prepare_structure(structure))
    with torch.device("meta"):
        tower = CLIPVisionModel(LlavaConfig().vision_config).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            tower(pixel_values=torch.empty(1, 3, 336, 336))
    assert (found[LlavaModel]["part"], found[LlavaModel]["parameters"]) == ("vision_tower", count_parameters(tower))
    assert found[LlavaModel]["macs"] == counter.get_total_flops() // 2
    assert found[Qwen2VLModel]["part"] == "visual"
    vision = Qwen2VLConfig().vision_config
    assert found[Qwen2VLModel]["macs"] == packed_tower(vision, 8 * vision.embed_dim**2, vision.hidden_size)[1]


@pytest.mark.parametrize("name", ["DetrForObjectDetection", "EomtForUniversalSegmentation"])
def test_a_config_in_half_precision_gives_the_same_macs(name: str, tmp_path: Path) -> None:
    """DETR looks for infinity in float16, EoMT reads a buffer."""
    model, folder = model_of(name), config_alone(BY_NAME[name], tmp_path)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float16"}))
    found = inspect.inspect_model(prepare_structure(load_structure(str(folder))))
    assert found["macs"] == macs_with_values(model, "")
    assert found["parameters"] == count_parameters(model)
    assert found["bytes"] < 0.6 * count_bytes(model)


def test_parameters_are_discarded_while_a_model_is_built() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(3, 3)
            self.second = torch.nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.scale = torch.nn.Parameter(torch.full((3,), 2.0), requires_grad=False)
            self.register_buffer("frequencies", torch.arange(3.0))

    with inspect._parameters_on_meta():
        model = Tied()
        others: list[Any] = []
        thread = threading.Thread(target=lambda: others.append(torch.nn.Linear(2, 2)))
        thread.start()
        thread.join()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.second.weight is model.first.weight
    assert not model.scale.requires_grad
    assert model.frequencies.tolist() == [0, 1, 2]
    assert not others[0].weight.is_meta
    assert not torch.nn.Linear(2, 2).weight.is_meta


READS = "the forward pass of DetrForObjectDetection reads values that are computed from its weights"
BUILDS = "the forward pass of EomtForUniversalSegmentation reads values"


@pytest.mark.parametrize(
    ("name", "reason"), [("DetrForObjectDetection", READS), ("EomtForUniversalSegmentation", BUILDS)]
)
def test_what_cannot_be_counted_without_weights_is_inspected_without_macs(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hf_vbp.ui.views import inspected

    family, one = BY_NAME[name], type(model_of(name))
    folder, forward = config_alone(family, tmp_path), one.forward

    @functools.wraps(forward)
    def reads(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        return output if output.logits.isfinite().all() else None

    if reason is READS:
        monkeypatch.setattr(one, "forward", reads)
    else:
        monkeypatch.setattr(inspect, "_LARGEST_PARAMETER", 100)
    shown = " ".join(run(["inspect", folder], capfd, monkeypatch).out.split())
    assert f"MACs not counted: {reason}" in shown
    assert "hf_vbp.workflow.inspect.inspect_model(model)" in shown
    assert "of the parameters remain." in shown
    assert all(site.parent in shown for site in family.sites)
    found: dict[str, Any] = json.loads(run(["inspect", folder, "--json"], capfd, monkeypatch).out)
    assert found["macs"] is found["reachable"]["macs"] is None
    assert {site["macs"] for site in found["sites"]} == {None}
    assert found["parameters"] == sum(parameter.numel() for parameter in model_of(family.name).parameters())
    page = inspected({**found, "model": "m", "merging": "no", "memory": 1, "download": 0, "processor": True})
    assert f"not counted: {reason}" in page
    # The advice of the message.
    assert inspect.inspect_model(model_of(name))["macs"] == macs_with_values(model_of(name), "")


def test_an_impossible_config_is_refused(tmp_path: Path) -> None:
    """A forward pass that fails for another reason than missing values is no reason to leave the MACs out."""
    from hf_vbp.errors import UnsupportedModelError

    folder = config_alone(BY_NAME["ViTForImageClassification"], tmp_path)
    structure = load_structure(str(folder))
    structure.config.image_size = 24
    with pytest.raises(UnsupportedModelError, match="fails on pixel_values"):
        inspect.inspect_model(prepare_structure(structure))
