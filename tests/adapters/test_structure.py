"""The structural check accepts MLPs and refuses modules that only resemble one."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_vbp.adapters import structure
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
    "activation",
    [nn.Softmax(dim=-1), nn.LayerNorm(48), nn.Sequential(nn.GELU(), nn.Linear(48, 48))],
    ids=["softmax", "norm", "linear"],
)
def test_refuses_modules_that_mix_neurons(vit: Any, activation: nn.Module) -> None:
    vit.vit.layers[1].mlp.activation_fn = activation
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp: a change of some hidden neurons changes others"):
        check_structure(vit, find_sites(vit))


class Scaled(nn.Module):
    """Has one weight per neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((48,), 2.0))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(values) * self.scale


def test_refuses_an_activation_with_weights_of_each_neuron(vit: Any) -> None:
    """It does not mix neurons, but its weights would not be cut."""
    vit.vit.layers[1].mlp.activation_fn = Scaled()
    with pytest.raises(UnsupportedModelError, match="something else depends on their number"):
        check_structure(vit, find_sites(vit))


class Flipped(nn.Module):
    """Reverses the neurons, which moves those with an index divisible by three to others with one."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.flip(-1)


@pytest.mark.parametrize(("width", "message"), [(48, "changes others"), (49, "permutes neurons")])
def test_refuses_a_permutation_of_neurons(vit: Any, width: int, message: str) -> None:
    mlp = vit.vit.layers[0].mlp
    mlp.fc1, mlp.fc2 = nn.Linear(32, width), nn.Linear(width, 32)
    mlp.activation_fn = nn.Sequential(nn.GELU(), Flipped())
    with pytest.raises(UnsupportedModelError, match=message):
        check_structure(vit, find_sites(vit))


def test_refuses_neurons_that_are_used_elsewhere(vit: Any) -> None:
    class Leaking(type(vit.vit.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            hidden = self.fc1(values)
            return self.fc2(self.activation_fn(hidden)) + hidden[..., :32]  # type: ignore[no-any-return]

    vit.vit.layers[1].mlp.__class__ = Leaking
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp: .*up projection is used outside"):
        check_structure(vit, find_sites(vit))


def test_an_mlp_may_run_twice(vit: Any) -> None:
    class Twice(type(vit.vit.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return super().forward(super().forward(values))  # type: ignore[no-any-return]

    vit.vit.layers[0].mlp.__class__ = Twice
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
    with pytest.raises(UnsupportedModelError, match=r"The forward pass of ViTForImageClassification fails"):
        check_structure(vit, find_sites(vit))


def test_dropout_in_the_chain_is_allowed(vit: Any) -> None:
    mlp = vit.vit.layers[0].mlp
    mlp.activation_fn = nn.Sequential(nn.GELU(), nn.Dropout(0.1))
    check_structure(vit, find_sites(vit), {"pixel_values": torch.randn(2, 3, 32, 32)})


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    # Less than the inputs of the down projections of two sites, so each is checked in a pass of its own.
    monkeypatch.setattr(structure, "_HELD_BYTES", 4_000)


@pytest.mark.usefixtures("little_room")
def test_large_models_are_checked_some_sites_at_a_time(vit: Any) -> None:
    """The same sites are accepted, and a later site is refused for the same reason."""
    check_structure(vit, find_sites(vit))
    vit.vit.layers[1].mlp.activation_fn = nn.Softmax(dim=-1)
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp: a change of some hidden neurons changes others"):
        check_structure(vit, find_sites(vit))


@pytest.mark.usefixtures("little_room")
def test_large_models_hold_few_inputs(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []

    def groups_of(records: Any) -> Any:
        for group in original(records):
            yield group
            groups.append([record.site.name for record in group])

    original = structure._groups
    monkeypatch.setattr(structure, "_groups", groups_of)
    sites = find_sites(vit)
    check_structure(vit, sites)
    assert [name for group in groups for name in group] == [site.name for site in sites]
    assert len(groups) == len(sites)
