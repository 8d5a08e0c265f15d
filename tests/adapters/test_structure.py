"""The structural check accepts MLPs and refuses modules that only resemble one."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.adapters.structure import check_structure
from hf_vbp.errors import UnsupportedModelError
from tests.conftest import make_model


@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher", "deit-backbone"])
def test_accepts_the_real_families(kind: str) -> None:
    model = make_model(kind).train()
    check_structure(model, find_sites(model))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (nn.Softmax(dim=-1), "mixes hidden neurons"),
        (nn.LayerNorm(48), "has its own weights"),
        (nn.Sequential(nn.GELU(), nn.Linear(48, 48)), "may mix neurons|its own weights"),
    ],
)
def test_refuses_modules_that_mix_neurons(vit: Any, activation: nn.Module, reason: str) -> None:
    vit.vit.layers[1].mlp.activation_fn = activation
    with pytest.raises(UnsupportedModelError, match=reason):
        check_structure(vit, find_sites(vit))


def test_refuses_a_function_between_activation_and_fc2(vit: Any) -> None:
    mlp = vit.vit.layers[0].mlp
    mlp.forward = lambda hidden_states: mlp.fc2(mlp.activation_fn(mlp.fc1(hidden_states)).flip(-1))
    with pytest.raises(UnsupportedModelError, match="does not come from fc1"):
        check_structure(vit, find_sites(vit))


def test_refuses_no_activation_at_all(vit: Any) -> None:
    vit.vit.layers[0].mlp.activation_fn = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="no activation"):
        check_structure(vit, find_sites(vit))


def test_refuses_an_mlp_that_runs_twice(vit: Any) -> None:
    mlp = vit.vit.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden_states: forward(forward(hidden_states))
    with pytest.raises(UnsupportedModelError, match="ran 2 times"):
        check_structure(vit, find_sites(vit))


def test_refuses_an_mlp_that_never_runs(vit: Any) -> None:
    vit.vit.layers[0].mlp.forward = lambda hidden_states: hidden_states
    with pytest.raises(UnsupportedModelError, match="ran 0 times"):
        check_structure(vit, find_sites(vit))


def test_refuses_shared_weights(vit: Any) -> None:
    vit.vit.layers[1].mlp.fc1.weight = vit.vit.layers[0].mlp.fc1.weight
    with pytest.raises(UnsupportedModelError, match=r"shared by vit.layers.0.mlp.fc1 and vit.layers.1.mlp.fc1"):
        check_structure(vit, find_sites(vit))


def test_refuses_packed_gates(vit: Any) -> None:
    vit.vit.layers[0].mlp.fc1 = nn.Linear(32, 96)
    with pytest.raises(UnsupportedModelError, match="fc1 has 96 outputs, but fc2 48 inputs"):
        check_structure(vit, find_sites(vit))


def test_dropout_in_the_chain_is_allowed(vit: Any) -> None:
    mlp = vit.vit.layers[0].mlp
    mlp.activation_fn = nn.Sequential(nn.GELU(), nn.Dropout(0.1))
    check_structure(vit, find_sites(vit), torch.randn(2, 3, 32, 32))
