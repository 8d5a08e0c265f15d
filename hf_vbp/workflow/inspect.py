"""The MLPs of a model and the smallest sizes that it can have, before any statistics are gathered."""

from dataclasses import asdict, dataclass
from typing import Any

from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.adapters.registry import adapter_of
from hf_vbp.config.limits import Limits
from hf_vbp.costs.widths import width_costs
from hf_vbp.pruning.budget_cost import narrowest_widths
from hf_vbp.pruning.levers import macs_share, most_tokens
from hf_vbp.token_merging.support import why_not_mergeable


@dataclass(frozen=True)
class SiteRow:
    """One MLP site and its share of the model.

    Attributes:
        index: Position in the order of the forward pass.
        name: Name of the site.
        intermediate_size: Number of its hidden neurons.
        parameters: Share of the parameters that belong to its hidden neurons.
        macs: Share of the MACs that belong to its hidden neurons.
    """

    index: int
    name: str
    intermediate_size: int
    parameters: float
    macs: float


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
        ``minimum_width``; for a model whose tokens can be merged also ``macs_with_merged_tokens``.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter.
    """
    limits = limits or Limits()
    prepared = prepare(model)
    costs = width_costs(prepared)
    rows = [
        SiteRow(
            site.index,
            site.name,
            site.intermediate_size,
            *(site.intermediate_size * neuron[name] / costs.dense[name] for name in ("parameters", "macs")),
        )
        for site, neuron in zip(prepared.sites, costs.per_neuron, strict=True)
    ]
    narrowest = narrowest_widths(prepared.widths, limits)
    merged = {}
    if why_not_mergeable(prepared.model) is None:
        merged["macs_with_merged_tokens"] = macs_share(prepared, most_tokens(prepared))(narrowest)
    return {
        "model_type": prepared.model.config.model_type,
        "architecture": type(prepared.model).__name__,
        "part": costs.part,
        **costs.dense,
        "sites": [asdict(row) for row in rows],
        "left_out": adapter_of(prepared.model).left_out(prepared.model),
        "reachable": {
            "minimum_width": limits.minimum_width,
            "ratio": 1 - sum(narrowest) / sum(prepared.widths),
            **{name: costs.share(name, narrowest) for name in costs.dense},
            **merged,
        },
    }
