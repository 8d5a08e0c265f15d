"""The interface between an adapter and all later steps: an MLP site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hf_vbp.modeling.config_record import qualified_layout, split_layout
from hf_vbp.modeling.modeling_hf_vbp import MLP, Layout, in_width, neuron_axes, out_width

# They normalize over the hidden neurons, so that removing some changes the others.
_MIXING = ("GRN", "GlobalResponseNorm", "LayerNorm", "RMSNorm", "GroupNorm")


@dataclass(frozen=True, eq=False)
class MLPSite:
    """One MLP of a network; most are ``fc2(activation(fc1(hidden_states)))``.

    Its hidden neurons are the inputs of ``fc2``, its down projection. There may be two up projections (gated, also
    packed into one), modules with one entry per neuron between them and ``fc2``, and a BatchNorm behind ``fc2``.

    Attributes:
        index: Position among the sites of the model, in the order of the forward pass.
        name: Qualified name of the module that holds the projections (``vit.layers.0.mlp``), for messages and tables.
            Names differ between versions of transformers, so files identify a site by its ``index``.
        mlp: Its modules.
        layout: The qualified names of its modules.
    """

    index: int
    name: str
    mlp: MLP
    layout: Layout

    @classmethod
    def of(cls, index: int, mlp: MLP) -> "MLPSite":
        """Return the site of an MLP that was found in the whole model."""
        return cls(index, mlp.parent, mlp, qualified_layout(mlp))

    @classmethod
    def named(cls, index: int, model: nn.Module, layout: Layout) -> "MLPSite":
        """Return the site whose modules have these qualified names.

        Raises:
            AttributeError: The model has no such module.
        """
        parent, local = split_layout(layout)
        ups = tuple(model.get_submodule(name) for name in layout.ups)
        between = tuple(model.get_submodule(name) for name in layout.between)
        after = model.get_submodule(layout.after) if layout.after else None
        mlp = MLP(parent, local, ups, model.get_submodule(layout.down), between, after)
        return cls(index, parent, mlp, layout)

    @property
    def fc1(self) -> Any:
        """The up projection, the first where there are two: ``(intermediate_size, hidden_size)`` for a Linear."""
        return self.mlp.ups[0]

    @property
    def fc2(self) -> Any:
        """The down projection: ``(hidden_size, intermediate_size)`` for a Linear."""
        return self.mlp.down

    @property
    def module_names(self) -> tuple[str, ...]:
        """The qualified names of its modules, in the order of ``mlp.modules``."""
        after = (self.layout.after,) if self.layout.after else ()
        return (*self.layout.ups, *self.layout.between, self.layout.down, *after)

    @property
    def intermediate_size(self) -> int:
        """The number of hidden neurons."""
        return self.mlp.width

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream, which pruning does not change."""
        return out_width(self.mlp.down)

    @property
    def has_bias(self) -> bool:
        """Whether the output of ``fc2`` can be shifted, by its bias or by the mean of the BatchNorm behind it."""
        return self.mlp.down.bias is not None or self.mlp.after is not None

    @property
    def mixes_neurons(self) -> bool:
        """Whether a normalization over the neurons lies before ``fc2``, so that removing some changes the others."""
        return any(type(module).__name__.endswith(_MIXING) for module in self.mlp.between)

    @property
    def parameters_per_neuron(self) -> int:
        """Parameters that are removed with one hidden neuron: its rows, its column, its bias, its other entries."""
        total = 0
        for module, role in self.mlp.modules:
            axes = neuron_axes(module, role, self.intermediate_size)
            named = module.named_parameters(recurse=False)
            total += sum(tensor.numel() for name, tensor in named if name in axes)
        return total // max(self.intermediate_size, 1)

    @property
    def macs_per_neuron(self) -> int:
        """Multiply-accumulates of one hidden neuron for one token: its rows, its column, its depthwise kernel."""
        weights = sum(in_width(up) for up in self.mlp.ups) * (2 if self.mlp.layout.packed else 1) + self.hidden_size
        kernels = sum(module.weight[0].numel() for module in self.mlp.between if isinstance(module, nn.Conv2d))
        return weights + kernels

    def by_neuron(self, values: Tensor) -> Tensor:
        """Return inputs or outputs of ``fc2`` with the neurons last; convolutions have them second."""
        return values.movedim(1, -1) if isinstance(self.mlp.down, nn.Conv2d) else values

    def from_neurons(self, values: Tensor) -> Tensor:
        """Undo :meth:`by_neuron`."""
        return values.movedim(-1, 1) if isinstance(self.mlp.down, nn.Conv2d) else values

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the site by their names in a state dict, relative to the site."""
        roles = {"up": "fc1", "down": "fc2"}
        tensors: dict[str, torch.Tensor] = {}
        for position, (module, role) in enumerate(self.mlp.modules):
            # Modules that plain MLPs do not have are named by their position.
            prefix = roles.get(role, role) if role == "down" or position == 0 else f"{roles.get(role, role)}{position}"
            buffers = () if role in roles else module.named_buffers(recurse=False)
            for name, value in (*module.named_parameters(recurse=False), *buffers):
                tensors[f"{prefix}.{name}"] = value
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
