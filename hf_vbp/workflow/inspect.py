"""The MLPs of a model and the smallest sizes that it can have, before any statistics are gathered."""

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from hf_vbp._progress import one_line
from hf_vbp.adapters.prepared import PreparedModel, prepare, prepare_structure
from hf_vbp.adapters.registry import left_out_of
from hf_vbp.checkpoint.transformers_patch import patched
from hf_vbp.config.limits import Limits
from hf_vbp.costs.widths import WidthCosts, costs_without_macs, width_costs
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.pruning.budget_cost import narrowest_widths
from hf_vbp.pruning.levers import macs_share, most_tokens
from hf_vbp.token_merging.support import why_not_mergeable

_MOST_RANDOM_PARAMETERS = 200_000_000
"""Parameters of the largest model that gets random weights to count its MACs: 0.8 GB in float32."""


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

    Some forward passes read values, which a model on the meta device does not have. A small model is then built again
    with random weights.
    """
    try:
        return width_costs(prepared), prepared, None
    except UnsupportedModelError as error:
        if not _lacks_values(prepared, error):
            raise
        cause = one_line(error.__cause__ or error)
    costs = costs_without_macs(prepared)
    if costs.dense["parameters"] > _MOST_RANDOM_PARAMETERS:
        reason = (
            f"the forward pass of {type(prepared.model).__name__} needs the values of weights or inputs ({cause}), "
            f"and the model has more than {_MOST_RANDOM_PARAMETERS:,} parameters, too many for random ones"
        )
        return costs, None, reason
    counted = prepare_structure(_with_random_weights(prepared.model))
    found = width_costs(counted)
    # Parameters and bytes are those of the dtype of the config, the random weights are in float32.
    per_neuron = tuple(
        {**own, "macs": other["macs"]} for own, other in zip(costs.per_neuron, found.per_neuron, strict=True)
    )
    dense = {**costs.dense, "macs": found.dense["macs"]}
    return replace(found, dense=dense, per_neuron=per_neuron), counted, None


def _lacks_values(prepared: PreparedModel, error: UnsupportedModelError) -> bool:
    on_meta = any(parameter.is_meta for parameter in prepared.model.parameters())
    return on_meta and "meta" in str(error.__cause__).lower()


def _with_random_weights(model: Any) -> Any:
    with patched(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)(deepcopy(model.config)).float().eval()
