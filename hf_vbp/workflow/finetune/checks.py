"""Checks of the values of a recipe, which name the field."""

import math
import re
from collections.abc import Mapping
from typing import Any

from hf_vbp import _progress
from hf_vbp.errors import ConfigurationError

_SEEDS = (0, 2**32 - 1)
# Field to its lowest and highest value; an open bound is above or below the number.
_RANGES: dict[str, tuple[float, float | None]] = {
    "learning_rate": (0, None),
    "weight_decay": (0, None),
    "adam_epsilon": (0, None),
    "warmup_steps": (0, None),
    "max_grad_norm": (0, None),
    "per_device_train_batch_size": (1, None),
    "per_device_eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
    "save_total_limit": (1, None),
    "dataloader_num_workers": (0, None),
    "dataloader_prefetch_factor": (1, None),
    "seed": _SEEDS,
    "data_seed": _SEEDS,
    "batch_size": (1, None),
    "num_workers": (0, None),
    "limit": (1, None),
}
_POSITIVE = ("num_train_epochs", "logging_steps", "save_steps", "eval_steps")
_BETAS = ("adam_beta1", "adam_beta2")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}|://[^/\s:@]+:[^/\s@]+@")


def shown(value: Any) -> str:
    """Return any value of a recipe for a message, shortened."""
    return "a section" if isinstance(value, Mapping) else _progress.shown(value)


def check_range(value: Any, name: str, label: str) -> None:
    """Refuse a number that is not finite or outside the range of its field.

    Args:
        value: The value; anything but a number is accepted.
        name: The name of the field.
        label: Name of the field in the message.

    Raises:
        ConfigurationError: It is outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{label} is {value}; expected a finite number.")
    if name == "max_steps" and value != -1 and value < 1:
        raise ConfigurationError(f"{label} is {shown(value)}; expected at least 1, or -1 for whole epochs.")
    if name in _POSITIVE and value <= 0:
        raise ConfigurationError(f"{label} is {shown(value)}; expected a number above 0.")
    if name in _BETAS and not 0 <= value < 1:
        raise ConfigurationError(f"{label} is {shown(value)}; expected a number from 0 to below 1.")
    lowest, highest = _RANGES.get(name, (-math.inf, None))
    if value < lowest or (highest is not None and value > highest):
        bounds = f"at least {lowest:g}" if highest is None else f"a number from {lowest:g} to {highest:.0f}"
        raise ConfigurationError(f"{label} is {shown(value)}; expected {bounds}.")


def check_secrets(value: Any, label: str = "") -> None:
    """Refuse a recipe that holds an access token or a password: it is saved with the checkpoint.

    The secret itself is not shown.

    Args:
        value: A value of the recipe, or the whole recipe.
        label: The name of its field.

    Raises:
        ConfigurationError: There is one.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_secrets(item, f"{label}.{name}" if label else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            check_secrets(item, label)
    elif value is not None and (label.endswith("_token") or (isinstance(value, str) and _TOKEN.search(value))):
        raise ConfigurationError(
            f"{label} holds a secret, but a recipe is saved with the checkpoint. Leave it out and log in with "
            "`hf auth login`, or set HF_TOKEN."
        )
