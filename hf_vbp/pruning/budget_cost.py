"""The share of a budget's cost that given widths achieve."""

from collections.abc import Callable, Sequence

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.budget import COSTS, Budget
from hf_vbp.costs.counts import count_macs, count_parameters
from hf_vbp.costs.latency import latency_of_widths
from hf_vbp.pruning.removal_order import RemovalOrder
from hf_vbp.statistics.activation_statistics import ActivationStatistics

AchievedBy = Callable[[Sequence[int]], float]
"""From the widths of all sites, in block order, to the share that the budget counts."""


def budget_cost(prepared: PreparedModel, statistics: ActivationStatistics, budget: Budget) -> AchievedBy:
    """Return the function from widths to the share that a budget counts.

    Parameters and MACs are closed forms of the widths; latency is measured on this device.

    Args:
        prepared: The dense model.
        statistics: Statistics of the model; the tokens per image at each site are read from them.
        budget: The budget.
    """
    dense, sites = prepared.widths, prepared.sites
    if budget.kind == "ratio":
        return lambda widths: (sum(dense) - sum(widths)) / sum(dense)
    if budget.kind == "latency":
        return latency_of_widths(prepared)
    if budget.kind == "parameters":
        total, each = count_parameters(prepared.model), [site.parameters_per_neuron for site in sites]
    else:
        total = count_macs(prepared.model)
        tokens = [site.moments.count // max(statistics.images, 1) for site in statistics.sites]
        each = [t * (s.fc1.in_features + s.fc2.out_features) for t, s in zip(tokens, sites, strict=True)]

    def kept(widths: Sequence[int]) -> float:
        removed = sum((full - width) * unit for full, width, unit in zip(dense, widths, each, strict=True))
        return float((total - removed) / total)

    return kept


def ceiling(budget: Budget, order: RemovalOrder, achieved_by: AchievedBy) -> str:
    """Return the sentence that says what limits a budget that cannot be met."""
    if budget.removes:
        return f"Each site keeps at least {order.limits.minimum_width} neurons; lower minimum_width or the ratio."
    held = achieved_by(order.dense_widths) - achieved_by(order.widths(order.cuts[-1]))
    return f"The MLPs hold a share of {held:.2f} of the {COSTS[budget.kind]} that can be removed; keep a larger share."
