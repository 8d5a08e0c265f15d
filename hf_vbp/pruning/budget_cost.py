"""The share of a budget's cost that given widths achieve, and whether a budget can be met at all."""

from collections.abc import Callable, Sequence

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.budget import Budget
from hf_vbp.config.limits import Limits
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.widths import width_costs

AchievedBy = Callable[[Sequence[int]], float]
"""From the widths of all sites, in block order, to the share that the budget counts."""


def budget_cost(prepared: PreparedModel, kind: str) -> AchievedBy:
    """Return the function from widths to the share that a budget counts; a closed form.

    Args:
        prepared: The dense model.
        kind: ``"ratio"``, ``"parameters"`` or ``"macs"``. A latency is measured, see
            :func:`hf_vbp.pruning.latency_search.meet_latency`.
    """
    if kind == "ratio":
        total = sum(prepared.widths)
        return lambda widths: (total - sum(widths)) / total
    costs = width_costs(prepared)
    return lambda widths: costs.share(kind, widths)


def narrowest_widths(dense_widths: Sequence[int], limits: Limits) -> list[int]:
    """Return the width of every site after everything that may be removed is removed."""
    return [limits.rounded(limits.floor(width), width) for width in dense_widths]


def check_budget(prepared: PreparedModel, config: VBPConfig) -> None:
    """Refuse a budget that pruning the MLPs cannot meet, before any image is read.

    A latency budget is not checked here, since it has to be measured.

    Args:
        prepared: The dense model.
        config: Budget and limits; without a budget there is nothing to check.

    Raises:
        BudgetError: The budget cannot be met; the message contains the share that can be reached. Or the dense model
            meets it already, so that nothing would be removed.
    """
    if not config.has_budget or config.budget.kind == "latency":
        return
    budget = config.budget
    budget.check_removes()
    best = budget_cost(prepared, budget.kind)(narrowest_widths(prepared.widths, config.limits))
    if not budget.is_met_by(best):
        raise budget.unreachable(best, floor_sentence(budget, config.limits))


def means_of(config: VBPConfig, *, merges: bool) -> str:
    """Return the levers of a configuration, for the error of a budget that cannot be met.

    Args:
        config: Its levers.
        merges: Whether tokens are merged.
    """
    mlp = ["pruning the MLPs"] if "mlp" in config.used_levers else []
    return " and ".join([*mlp, *(["merging tokens"] if merges else [])])


def advice_of(config: VBPConfig) -> str:
    """Return what limits the levers of a configuration, with the advice, for the error of such a budget."""
    if "mlp" in config.used_levers:
        return floor_sentence(config.budget, config.limits)
    return "Ask for a larger share, or use narrower MLPs too (levers mlp,tokens)."


def floor_sentence(budget: Budget, limits: Limits) -> str:
    """Return the sentence with the limit that makes a budget unreachable, and the advice."""
    minimum, multiple = limits.minimum_width, limits.round_to
    least = -(-minimum // multiple) * multiple
    number = f"{least:,} neuron{'' if least == 1 else 's'}"
    if least == minimum:
        advice = "lower minimum_width or the ratio" if budget.removes else "ask for a larger share"
        return f"Each MLP keeps at least {number} (minimum_width); {advice}."
    lower = "round_to" if minimum == 1 else "round_to, minimum_width"
    advice = f"lower {lower} or the ratio" if budget.removes else f"lower {lower}, or ask for a larger share"
    return (
        f"Each MLP keeps at least {number}, or all where it has fewer (minimum_width {minimum:,}, rounded up to a "
        f"multiple of round_to {multiple:,}); {advice}."
    )
