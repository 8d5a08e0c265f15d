"""The interface between an adapter and all later steps: an MLP site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class MLPSite:
    """One two-layer MLP of a network: ``fc2(activation(fc1(hidden_states)))``.

    Its hidden neurons are the outputs of the activation, which are the inputs of ``fc2``; a forward pre-hook on
    ``fc2`` receives them as ``(..., intermediate_size)``.

    Attributes:
        index: Position among the sites of the model, in the order of the forward pass.
        name: Qualified name of the module that holds both linears (``vit.layers.0.mlp``), for messages and tables.
            Names differ between versions of transformers, so files identify a site by its ``index``.
        fc1: The expanding linear, weight ``(intermediate_size, hidden_size)``.
        fc2: The contracting linear, weight ``(hidden_size, intermediate_size)``.
        fc1_name: Qualified name of ``fc1`` in the model.
        fc2_name: Qualified name of ``fc2`` in the model.
    """

    index: int
    name: str
    fc1: nn.Linear
    fc2: nn.Linear
    fc1_name: str
    fc2_name: str

    @property
    def intermediate_size(self) -> int:
        """The number of hidden neurons."""
        return self.fc2.in_features

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream, which pruning does not change."""
        return self.fc2.out_features

    @property
    def parameters_per_neuron(self) -> int:
        """Parameters that are removed with one hidden neuron: its row, its column and its bias."""
        return self.fc1.in_features + self.fc2.out_features + (self.fc1.bias is not None)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the site by their names in a state dict, relative to the site."""
        tensors: dict[str, torch.Tensor] = {
            f"fc1.{name}": value for name, value in self.fc1.named_parameters(recurse=False)
        }
        tensors.update({f"fc2.{name}": value for name, value in self.fc2.named_parameters(recurse=False)})
        return tensors


class Adapter(Protocol):
    """Finds the MLP sites of one family of models.

    An adapter never computes: no statistics, no scores, no slicing.
    """

    def find_sites(self, model: nn.Module) -> Sequence[MLPSite]:
        """Return the MLP sites of ``model`` in the order of the forward pass."""
        ...

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """Return the modules that resemble an MLP but are not pruned: qualified name to the reason."""
        ...
