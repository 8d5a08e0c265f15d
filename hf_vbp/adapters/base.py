"""The generic MLP interface that everything downstream of an adapter sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


@dataclass(frozen=True, eq=False)
class MLPSite:
    """One two-layer MLP of a network: ``fc2(activation(fc1(hidden_states)))``.

    Its hidden neurons are the outputs of the activation, that is the input of ``fc2``; a forward pre-hook on
    ``fc2`` sees them as ``(..., intermediate_size)``.

    Attributes:
        index: Position among the sites of the model, in the order of the forward pass.
        name: Qualified name of the module that holds both linears, for people (``vit.layers.0.mlp``). Names
            differ between versions of transformers, so files that outlive a process go by ``index``.
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
        """The width of the residual stream, which pruning leaves as it is."""
        return self.fc2.out_features

    @property
    def parameters_per_neuron(self) -> int:
        """Parameters that go with one hidden neuron: its row, its column and its bias."""
        return self.fc1.in_features + self.fc2.out_features + (self.fc1.bias is not None)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the site under the names a state dict gives them, relative to the site."""
        tensors: dict[str, torch.Tensor] = {
            f"fc1.{name}": value for name, value in self.fc1.named_parameters(recurse=False)
        }
        tensors.update({f"fc2.{name}": value for name, value in self.fc2.named_parameters(recurse=False)})
        return tensors


class Adapter(Protocol):
    """How one family of models tells its MLP sites, and how their widths are written to its config.

    An adapter never computes: no statistics, no scores, no slicing.
    """

    def find_sites(self, model: nn.Module) -> Sequence[MLPSite]:
        """Return the MLP sites of ``model`` in the order of the forward pass."""
        ...

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """Return the modules that look like an MLP but are not pruned: qualified name to the reason."""
        ...
