"""The MLPs of a model and the smallest sizes that it can have, before any statistics are gathered."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from hf_vbp._progress import one_line
from hf_vbp.adapters.prepared import PreparedModel, prepare, prepare_structure
from hf_vbp.adapters.registry import left_out_of
from hf_vbp.checkpoint.transformers_patch import patched
from hf_vbp.config.limits import Limits
from hf_vbp.costs.counts import MissingValuesError
from hf_vbp.costs.widths import WidthCosts, costs_without_macs, width_costs
from hf_vbp.pruning.budget_cost import narrowest_widths
from hf_vbp.pruning.levers import macs_share, most_tokens
from hf_vbp.token_merging.support import why_not_mergeable

_LARGEST_PARAMETER = 2**30
"""Numbers in the largest parameter that a constructor may make before it is discarded: 4 GB in float32."""


@dataclass(frozen=True)
class SiteRow:
    """One MLP site and its share of the model.

    Attributes:
        index: Position in the order of the forward pass.
        name: Name of the site.
        intermediate_size: Number of its hidden neurons.
        parameters: Share of the parameters that belong to its hidden neurons.
        macs: Share of the MACs that belong to its hidden neurons; None where they were not counted.
    """

    index: int
    name: str
    intermediate_size: int
    parameters: float
    macs: float | None


def inspect_model(model: Any | PreparedModel, limits: Limits | None = None) -> dict[str, Any]:
    """Return the sites of a model, their shares, the excluded modules with the reason, and the reachable budgets.

    Args:
        model: A transformers model of a registered family, or a prepared one, also without weights
            (:func:`hf_vbp.adapters.prepared.prepare_structure`).
        limits: Floor and rounding of the widths; by default each MLP keeps one neuron.

    Returns:
        ``{"model_type", "architecture", "part", "parameters", "macs", "bytes", "sites": [...], "left_out": {...},
        "reachable": {...}}``, ready for JSON. ``part`` is the name of the vision tower where the model takes texts
        too; all figures are then of this tower. It is empty otherwise. ``reachable`` holds the largest ``ratio`` that
        can be removed, and the smallest shares of ``parameters``, ``macs`` and ``bytes`` that can be kept, with the
        ``minimum_width``; for a model whose tokens can be merged also ``macs_with_merged_tokens``. Where the MACs
        cannot be counted, all their figures are None, and ``macs_not_counted`` is the reason.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter.
    """
    limits = limits or Limits()
    prepared = prepare(model)
    costs, counted, reason = _costs(prepared)
    rows = [
        SiteRow(
            site.index,
            site.name,
            site.intermediate_size,
            site.intermediate_size * neuron["parameters"] / costs.dense["parameters"],
            None if counted is None else site.intermediate_size * neuron["macs"] / costs.dense["macs"],
        )
        for site, neuron in zip(prepared.sites, costs.per_neuron, strict=True)
    ]
    narrowest = narrowest_widths(prepared.widths, limits)
    merged = {}
    if counted is not None and why_not_mergeable(prepared.model) is None:
        merged["macs_with_merged_tokens"] = macs_share(counted, most_tokens(counted))(narrowest)
    return {
        "model_type": prepared.model.config.model_type,
        "architecture": type(prepared.model).__name__,
        "part": costs.part,
        "parameters": costs.dense["parameters"],
        "macs": costs.dense.get("macs"),
        "bytes": costs.dense["bytes"],
        "sites": [asdict(row) for row in rows],
        "left_out": left_out_of(prepared.model),
        "reachable": {
            "minimum_width": limits.minimum_width,
            "ratio": 1 - sum(narrowest) / sum(prepared.widths),
            "macs": None,
            **{name: costs.share(name, narrowest) for name in costs.dense},
            **merged,
        },
        **({} if reason is None else {"macs_not_counted": reason}),
    }


def _costs(prepared: PreparedModel) -> tuple[WidthCosts, PreparedModel | None, str | None]:
    """Return the costs, the model whose MACs were counted, and the reason where there is none.

    Some forward passes read buffers, whose values a model on the meta device does not have. Such a model is built
    again with the values of its buffers, still without weights.
    """
    try:
        return width_costs(prepared), prepared, None
    except MissingValuesError as error:
        if not all(parameter.is_meta for parameter in prepared.model.parameters()):
            raise
        cause = one_line(error.__cause__ or error)
    costs, name = costs_without_macs(prepared), type(prepared.model).__name__
    largest = max(parameter.numel() for parameter in prepared.model.parameters())
    advice = "Load the model, and call hf_vbp.workflow.inspect.inspect_model(model)"
    if largest > _LARGEST_PARAMETER:
        reason = (
            f"the forward pass of {name} reads values ({cause}), and one of its parameters has {largest:,} numbers; "
            f"up to {_LARGEST_PARAMETER:,} can be made without weights. {advice}"
        )
        return costs, None, reason
    counted = prepare_structure(_with_buffers(prepared.model))
    try:
        found = width_costs(counted)
    except MissingValuesError as error:
        cause = one_line(error.__cause__ or error)
        reason = f"the forward pass of {name} reads values that are computed from its weights ({cause}). {advice}"
        return costs, None, reason
    # Parameters and bytes are those of the dtype of the config, the second model is in float32.
    per_neuron = tuple(
        {**own, "macs": other["macs"]} for own, other in zip(costs.per_neuron, found.per_neuron, strict=True)
    )
    dense = {**costs.dense, "macs": found.dense["macs"]}
    return replace(found, dense=dense, per_neuron=per_neuron), counted, None


def _with_buffers(model: Any) -> Any:
    with patched(), torch.random.fork_rng(devices=[]), _parameters_on_meta():
        torch.manual_seed(0)
        return type(model)(deepcopy(model.config)).float().eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Discard the values of each parameter when a constructor in this thread registers it; tied ones remain tied."""
    thread = threading.get_ident()

    def discard(_: nn.Module, __: str, parameter: Any) -> Any:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    # The annotation of torch has no result, but a result replaces the parameter.
    hook: Callable[..., Any] = discard
    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
