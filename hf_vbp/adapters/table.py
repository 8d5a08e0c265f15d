"""The adapter of every model: finds its MLPs by the table that travels with checkpoints."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
from typing import Any

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.modalities import check_takes_images
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import (
    LAYOUTS,
    MLP,
    find_mlps,
    in_width,
    is_projection,
    out_width,
    pruned_parts,
    search,
    why_left_out,
)

_POOLER = "its output is not used for classification and it is not a two-layer MLP"
_UNKNOWN = "it expands and reduces the channels, but the table has no such layout"
_CONNECTORS = re.compile("projector|connector|merger")


class TableAdapter:
    """Finds the MLPs whose modules are named in :data:`~hf_vbp.modeling.modeling_hf_vbp.LAYOUTS`."""

    def find_sites(self, model: nn.Module) -> tuple[MLPSite, ...]:
        """Return the MLP sites of ``model`` in block order.

        Raises:
            UnsupportedModelError: A projection is not a plain layer of torch (quantized, LoRA, tensor parallel).
        """
        config: Any = model.config
        check_takes_images(config, type(model).__name__)
        # A pruned model is read by its record, so that it is pruned again at the same places.
        parts = pruned_parts(model)
        is_pruned = len(parts) == 1 and not parts[0][0]
        mlps = find_mlps(model, parts[0][2] if is_pruned else None)
        sites = tuple(MLPSite.of(index, mlp) for index, mlp in enumerate(mlps))
        for site in sites:
            for name, (module, _) in zip(site.mlp.names, site.mlp.modules, strict=True):
                _check_plain(name, module)
        return sites

    def left_out(self, model: nn.Module) -> dict[str, str]:
        """Return the modules that resemble an MLP but are not pruned: qualified name to the reason.

        These are the MLPs of the table in parts that are left out by name, such parts without an MLP of the table
        (connectors, box heads), and expansions of a layout that the table does not have.
        """
        found = {}
        config: Any = model.config
        mlps = search(model, LAYOUTS, include_all=True)
        for mlp in mlps:
            reason = why_left_out(mlp.parent, config.model_type)
            if reason is not None:
                found[mlp.parent] = reason
        for name, reason in (*_parts_left_out(model, config.model_type), *_unknown_layouts(model, mlps)):
            if not _holds(name, found):
                found[name] = reason
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "pooler" and any(True for _ in module.parameters()):
                found[name] = _POOLER
        return found


def _parts_left_out(model: nn.Module, model_type: str) -> Iterator[tuple[str, str]]:
    """Yield the outermost modules that are left out by name and hold several projections, with the reason."""
    for name, module in model.named_modules():
        outer, _, part = name.rpartition(".")
        reason = why_left_out(name, model_type)
        if reason is None or why_left_out(outer, model_type) is not None or is_projection(module):
            continue
        projections = sum(is_projection(inner) for inner in module.modules())
        # A classifier with a norm is no MLP; what connects towers is listed also with a single projection.
        if projections > 1 or (projections and _CONNECTORS.search(part)):
            yield name, reason


def _unknown_layouts(model: nn.Module, mlps: Sequence[MLP]) -> Iterator[tuple[str, str]]:
    """Yield the modules with an expansion and a reduction that are no MLP of the table, with the reason."""
    known = {id(module) for mlp in mlps for module in (*mlp.ups, mlp.down)}
    projections = [(name.split("."), module) for name, module in model.named_modules() if is_projection(module)]
    for (first, up), (second, down) in pairwise(projections):
        expands = in_width(up) < out_width(up) == in_width(down)
        # Inverted residuals that change the resolution may keep the width; linears that do are those of attention.
        convolutions = isinstance(up, nn.Conv2d) and isinstance(down, nn.Conv2d)
        expands &= out_width(down) < in_width(down) or (convolutions and out_width(down) == in_width(down))
        if not expands or id(up) in known or id(down) in known:
            continue
        parent = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]
        # Neighbors in a list or a sequence are layers of their own.
        if not any(part.isdigit() for part in (*first[len(parent) :], *second[len(parent) :])):
            yield ".".join(parent), _UNKNOWN


def _holds(name: str, found: Mapping[str, str]) -> bool:
    """Return whether a module is listed, or one inside it or around it."""
    return any(f"{one}.".startswith(f"{name}.") or f"{name}.".startswith(f"{one}.") for one in found)


def _check_plain(name: str, module: nn.Module) -> None:
    # Subclasses (quantized, LoRA, tensor parallel linears) do not store their weights as nn.Linear does.
    layered = isinstance(module, nn.Linear | nn.Conv2d)
    if layered and type(module) not in (nn.Linear, nn.Conv2d):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__module__}.{type(module).__qualname__}, expected a plain "
            f"torch.nn.{'Linear' if isinstance(module, nn.Linear) else 'Conv2d'}. Prune the plain model first; "
            "quantize it or add PEFT adapters afterwards."
        )
