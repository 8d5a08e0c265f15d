"""Leave out values that were not measured."""

import math
from collections.abc import Mapping
from typing import Any


def without_unmeasured(value: Any) -> Any:
    """Return a JSON value without its ``None`` and non-finite entries and without empty objects."""
    if isinstance(value, Mapping):
        kept = {key: without_unmeasured(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {}}
    if isinstance(value, list | tuple):
        return [without_unmeasured(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
