"""Presets and defaults: the only place that names criteria and compensations, except their modules."""

from typing import Any

DEFAULT_CRITERION = "obs"
DEFAULT_COMPENSATION = "linear"

PRESETS: dict[str, dict[str, Any]] = {
    "best": {"criterion": DEFAULT_CRITERION, "compensation": DEFAULT_COMPENSATION},
    "paper": {"criterion": "variance", "compensation": "mean", "scope": "global", "levers": ("mlp",), "round_to": 1},
}
"""``best`` is the default and has the lowest measured damage (docs/beyond_the_paper.md); ``paper`` is the paper's
method exactly."""
