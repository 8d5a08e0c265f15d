"""The levers: what may be changed to make a model cheaper."""

from hf_vbp._progress import shown
from hf_vbp.errors import ConfigurationError

LEVERS = ("mlp", "tokens")
# Merged tokens change neither the number of neurons nor the parameters, so these budgets do not choose them.
CHOOSES_TOKENS = ("macs", "latency")
MOST_TOKENS = 1_000_000
"""The largest number of tokens to merge before a block; no model has so many."""


def check_levers(levers: tuple[str, ...] | None, merge_tokens: int | None) -> None:
    """Validate the fields of a configuration.

    Raises:
        ConfigurationError: A lever is unknown or named twice, there is none, or ``merge_tokens`` is no whole number of
            at least 0, or contradicts the levers.
    """
    if levers is not None:
        known = isinstance(levers, tuple) and all(isinstance(lever, str) and lever in LEVERS for lever in levers)
        if not known or not levers or len(set(levers)) < len(levers):
            raise ConfigurationError(f"levers must be some of {', '.join(LEVERS)}, each once, got {_named(levers)}.")
    if merge_tokens is None:
        return
    if type(merge_tokens) is not int or not 0 <= merge_tokens <= MOST_TOKENS:
        raise ConfigurationError(
            f"merge_tokens must be a whole number from 0 to {MOST_TOKENS:,}, got {shown(merge_tokens)}."
        )
    if levers is not None and merge_tokens and "tokens" not in levers:
        raise ConfigurationError(
            f"merge_tokens={merge_tokens} merges tokens, which levers={','.join(levers)} does not allow. Add the "
            "lever tokens, or leave merge_tokens out."
        )
    if levers is not None and not merge_tokens and "mlp" not in levers:
        raise ConfigurationError(
            f"merge_tokens=0 merges no tokens, and levers={','.join(levers)} leaves the MLPs as they are, so nothing "
            "would be changed. Give a larger number, leave merge_tokens out, or add the lever mlp."
        )


def _named(levers: object) -> str:
    if isinstance(levers, tuple) and levers and all(isinstance(lever, str) for lever in levers):
        return shown(",".join(levers))
    return "none" if levers == () else shown(levers)


def used_levers(levers: tuple[str, ...] | None, merge_tokens: int | None, budget: str) -> tuple[str, ...]:
    """Return the levers of a configuration, or the default ones of its budget.

    Args:
        levers: The levers, or None for the default ones.
        merge_tokens: The number of merged tokens, or None where it is to be chosen.
        budget: The kind of the budget.
    """
    if merge_tokens is not None:
        both = levers or LEVERS
        return both if merge_tokens else tuple(lever for lever in both if lever == "mlp") or LEVERS[:1]
    if levers is not None:
        return levers
    return LEVERS if budget in CHOOSES_TOKENS else LEVERS[:1]
