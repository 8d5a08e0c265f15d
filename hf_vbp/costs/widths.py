"""Parameters, multiply-accumulates and bytes as closed forms of the widths of the MLPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.costs.counts import count_bytes, count_parameters, describe_cost, module_to_run
from hf_vbp.costs.part import counted_part
from hf_vbp.modeling.shared_copy import copy_sharing_tensors
from hf_vbp.token_merging.merge_tokens import merge_tokens


@dataclass(frozen=True)
class WidthCosts:
    """The cost of a model for any widths of its MLPs.

    Attributes:
        dense: ``{"parameters", "macs", "bytes"}`` of the dense model, or of the part of it that counts.
        widths: The dense width of each site.
        per_neuron: The same three of one hidden neuron, for each site.
        tokens: Tokens of one image at each site.
        part: Name of the vision tower, where only its cost counts; see :func:`hf_vbp.costs.part.counted_part`.
    """

    dense: dict[str, int]
    widths: tuple[int, ...]
    per_neuron: tuple[dict[str, int], ...]
    tokens: tuple[int, ...]
    part: str = ""

    def of(self, widths: Sequence[int]) -> dict[str, int]:
        """Return ``{"parameters", "macs", "bytes"}`` of the model with these widths, without building it.

        Args:
            widths: One width per site, in block order.
        """
        removed = [full - width for full, width in zip(self.widths, widths, strict=True)]
        return {
            name: total - sum(count * site[name] for count, site in zip(removed, self.per_neuron, strict=True))
            for name, total in self.dense.items()
        }

    def share(self, name: str, widths: Sequence[int]) -> float:
        """Return the share of the dense ``"parameters"``, ``"macs"`` or ``"bytes"`` that these widths keep."""
        return self.of(widths)[name] / self.dense[name]


def width_costs(prepared: PreparedModel, merged_tokens: Sequence[int] = ()) -> WidthCosts:
    """Return the closed form of a model's cost, from one forward pass that computes shapes only.

    Args:
        prepared: The dense model; the batch that verified it gives the size of the images.
        merged_tokens: Tokens merged before each block; the cost with all neurons is then that of the merged model.

    Raises:
        MissingValuesError: The model has no weights, and its forward pass reads values.
        UnsupportedModelError: The model is not verified, and cannot be, or its forward pass fails.
    """
    key = ("width_costs", tuple(merged_tokens))
    if key not in prepared.costs:
        prepared.costs[key] = _measured(prepared, tuple(merged_tokens))
    found: WidthCosts = prepared.costs[key]
    return found


def costs_without_macs(prepared: PreparedModel) -> WidthCosts:
    """Return the closed form of parameters and bytes only, without a forward pass; ``tokens`` is empty.

    Args:
        prepared: The dense model, also without weights.
    """
    part = counted_part(prepared.model, prepared.sites)
    counted = prepared.model.get_submodule(part)
    dense = {"parameters": count_parameters(counted), "bytes": count_bytes(counted)}
    per_neuron = tuple(_weights_per_neuron(site) for site in prepared.sites)
    return WidthCosts(dense, tuple(prepared.widths), per_neuron, (), part)


def _weights_per_neuron(site: MLPSite) -> dict[str, int]:
    return {
        "parameters": site.parameters_per_neuron,
        "bytes": site.parameters_per_neuron * site.fc2.weight.element_size(),
    }


def _measured(prepared: PreparedModel, merged_tokens: tuple[int, ...]) -> WidthCosts:
    # Verifies the model where that was not done yet, which must not be counted.
    inputs = prepared.inputs
    model = with_merged_tokens(prepared.model, merged_tokens)
    part, tokens = counted_part(model, prepared.sites), [0] * len(prepared.sites)
    handles = [
        model.get_submodule(site.layout.down).register_forward_pre_hook(partial(_count_tokens, tokens, site))
        for site in prepared.sites
    ]
    # A pass that needs values is repeated with them; its tokens count once.
    root = module_to_run(model, inputs, part)
    handles.append(root.register_forward_pre_hook(lambda *_: tokens.__setitem__(slice(None), [0] * len(tokens))))
    try:
        dense = describe_cost(model, inputs, part)
    finally:
        for handle in handles:
            handle.remove()
    per_neuron = tuple(
        {**_weights_per_neuron(site), "macs": seen * site.macs_per_neuron}
        for site, seen in zip(prepared.sites, tokens, strict=True)
    )
    return WidthCosts(dense, tuple(prepared.widths), per_neuron, tuple(tokens), part)


def with_merged_tokens(model: Any, merged_tokens: Sequence[int]) -> Any:
    """Return a copy that merges tokens and shares all tensors with the model; the model itself where none are merged.

    Args:
        model: A model whose tokens can be merged; not changed.
        merged_tokens: Tokens merged before each block.
    """
    if not any(merged_tokens):
        return model
    shared = copy_sharing_tensors(model)
    merge_tokens(shared, merged_tokens)
    return shared


def _count_tokens(tokens: list[int], site: MLPSite, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    tokens[site.index] += inputs[0].numel() // max(site.intermediate_size, 1)
