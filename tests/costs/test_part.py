"""The cost of a model that takes texts too is that of its vision tower: budgets do not depend on the texts."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import hf_vbp
from hf_vbp.card.render import make_facts
from hf_vbp.cli.plan import show
from hf_vbp.costs.counts import count_macs
from hf_vbp.inputs.batch import first_image
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.ui import views
from hf_vbp.workflow.inspect import inspect_model
from tests.cli.helpers import run
from tests.families.running import BY_NAME, model_of

TEXT_LENGTHS = (3, 8)


def tower_cost(tower: torch.nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Parameters, MACs and bytes of a module that runs alone."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(tower).to("meta")(pixel_values=images.to("meta"))
    parameters = sum(parameter.numel() for parameter in tower.parameters())
    buffers = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2, "bytes": buffers}


def with_texts(name: str, length: int) -> dict[str, Any]:
    batch = BY_NAME[name].batch(4)
    return {
        key: value[:, -length:] if key in ("input_ids", "attention_mask") else value for key, value in batch.items()
    }


@pytest.mark.parametrize("config", [{"target_macs": 0.85}, {"target_parameters": 0.85}])
def test_a_budget_of_a_dual_encoder_does_not_depend_on_the_texts(
    config: dict[str, float], capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for length in TEXT_LENGTHS:
        batch = with_texts("CLIPModel", length)
        result = hf_vbp.prune(model_of("CLIPModel"), [batch], hf_vbp.VBPConfig(**config, levers=("mlp",)))
        dense, pruned = (
            tower_cost(model.vision_model, batch["pixel_values"][:1])
            for model in (model_of("CLIPModel"), result.model)
        )
        assert result.results["cost"] == {"dense": dense, "pruned": pruned, "part": "vision_model"}
        kept = pruned["macs" if "target_macs" in config else "parameters"]
        assert kept <= 0.85 * dense["macs" if "target_macs" in config else "parameters"]
        assert dict(result.plan.cost) == {"dense": dense, "pruned": pruned}
        assert PruningPlan.from_dict(json.loads(result.plan.to_json())).cost_part == "vision_model"
        found.append(result.plan.widths)
    assert found[0] == found[1]
    show(result.plan, None)
    assert "Cost of the vision tower" in capfd.readouterr().out
    facts = make_facts(result.results, repo_id="me/pruned")
    assert facts.headline.startswith("Its vision tower has ")
    assert facts.cost_table.header[0] == "of the vision tower"
    assert "Parameters of the vision tower" in views.receipt({**result.results, "receipt": []}, "pruned")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("SiglipModel", "vision_model"),
        ("Siglip2Model", "vision_model"),
        ("OwlViTForObjectDetection", "owlvit.vision_model"),
        ("CLIPVisionModelWithProjection", ""),
        ("ImageGPTModel", ""),
    ],
)
def test_the_tower_is_found_by_what_its_forward_takes(name: str, part: str) -> None:
    model = model_of(name)
    found = inspect_model(model)
    tower = model.get_submodule(part)
    assert found["part"] == part
    assert found["parameters"] == sum(parameter.numel() for parameter in tower.parameters())
    if name == "SiglipModel":
        assert found["macs"] == tower_cost(tower, BY_NAME[name].batch(1)["pixel_values"])["macs"]


def test_inspect_names_the_tower(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = model_of("CLIPModel")
    config = copy.deepcopy(model.config)
    config.architectures = ["CLIPModel"]
    config.save_pretrained(tmp_path)
    shown = run(["inspect", tmp_path], capfd, monkeypatch).out
    tower = transformers.CLIPVisionModel(model.config.vision_config)
    found = inspect_model(model)
    assert found["macs"] == tower_cost(tower, BY_NAME["CLIPModel"].batch(1)["pixel_values"])["macs"]
    assert "MACs of the vision tower" in shown
    assert "of the MACs of the vision tower remain" in " ".join(shown.split())
    assert "All figures are of the vision tower, vision_model" in shown


@pytest.mark.parametrize("name", ["CLIPModel", "Siglip2VisionModel", "VJEPA2Model", "DetrForObjectDetection"])
def test_a_pass_that_fails_on_the_meta_device_counts_tokens_once_and_the_attention(name: str) -> None:
    """The closed form, from which budgets are met, is the count of the pruned model."""
    batch = BY_NAME[name].batch(4)
    model = model_of(name)
    result = hf_vbp.prune(model, [batch], hf_vbp.VBPConfig(ratio=0.5))
    cost = result.results["cost"]
    assert result.plan.cost["pruned"] == cost["pruned"] != cost["dense"]
    if name == "VJEPA2Model":
        eager = copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        assert cost["dense"]["macs"] == count_macs(eager, first_image(batch))
