"""The adapter of every family whose blocks have two named linears with an activation between them."""

import re
from dataclasses import dataclass, field

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.config_record import split_layout
from hf_vbp.modeling.modeling_hf_vbp import MLP, Layout

# Children that make the MLP something other than fc2(activation(fc1(x))): a gate multiplies two projections,
# GRN and a depthwise convolution mix neurons or positions between fc1 and fc2.
_DISQUALIFYING_CHILDREN = {
    "gate_proj": "it is gated: its hidden neurons are products of two projections",
    "grn": "its global response normalization mixes the hidden neurons",
    "dwconv": "a depthwise convolution is between its linears",
}


@dataclass(frozen=True)
class LinearPairAdapter:
    """Finds MLP sites as pairs of linears at fixed places in each block.

    Attributes:
        blocks: Regular expression that the qualified name of a block matches at its end.
        pairs: Names of the two linears relative to the block. The first pair that exists is used, because the names
            of a family differ between versions of transformers.
        reasons: Endings of the qualified names of modules that resemble an MLP and are not pruned, with the reason.
    """

    blocks: str = r"(?:^|\.)layers?\.\d+$"
    pairs: tuple[tuple[str, str], ...] = (("mlp.fc1", "mlp.fc2"), ("intermediate.dense", "output.dense"))
    reasons: dict[str, str] = field(default_factory=dict)

    def find_sites(self, model: nn.Module) -> tuple[MLPSite, ...]:
        """Return the MLP sites of ``model`` in the order of the forward pass.

        Args:
            model: A model of this family, with any head.

        Returns:
            One site for each block that holds a pair.

        Raises:
            UnsupportedModelError: A pair is gated or has mixing modules, or is not made of plain linears.
        """
        sites: list[MLPSite] = []
        for name, block in model.named_modules():
            if re.search(self.blocks, name):
                pair = next((pair for pair in self.pairs if _has_submodules(block, pair)), None)
                if pair is not None:
                    sites.append(_site(len(sites), name, block, pair))
        return tuple(sites)

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """Return the modules that resemble an MLP but are not pruned: qualified name to the reason."""
        found = {}
        for name, _ in model.named_modules():
            for ending, reason in self.reasons.items():
                if name == ending or name.endswith(f".{ending}"):
                    found[name] = reason
        return found


def _has_submodules(block: nn.Module, paths: tuple[str, ...]) -> bool:
    known = {name for name, _ in block.named_modules()}
    return all(path in known for path in paths)


def _site(index: int, block_name: str, block: nn.Module, pair: tuple[str, str]) -> MLPSite:
    fc1, fc2 = (block.get_submodule(path) for path in pair)
    parent = pair[0].rpartition(".")[0] if pair[0].rpartition(".")[0] == pair[1].rpartition(".")[0] else ""
    name = f"{block_name}.{parent}" if parent else block_name
    for child, _ in block.get_submodule(parent).named_children():
        if child in _DISQUALIFYING_CHILDREN:
            raise UnsupportedModelError(
                f"The MLP {name} cannot be pruned: {_DISQUALIFYING_CHILDREN[child]}. "
                "Register an adapter that supports it, see docs/adapters.md."
            )
    for path, linear in zip(pair, (fc1, fc2), strict=True):
        # Subclasses (quantized, LoRA, tensor parallel linears) do not store their weights as nn.Linear does.
        if type(linear) is not nn.Linear:
            raise UnsupportedModelError(
                f"{block_name}.{path} is a {type(linear).__module__}.{type(linear).__qualname__}, expected a plain "
                "torch.nn.Linear. Prune the plain model first; quantize it or add PEFT adapters afterwards."
            )
    layout = Layout((f"{block_name}.{pair[0]}",), f"{block_name}.{pair[1]}")
    _, local = split_layout(layout)
    return MLPSite(index, name, MLP(name, local, (fc1,), fc2), layout)
