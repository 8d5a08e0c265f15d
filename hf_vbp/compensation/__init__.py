"""Compensations: how the kept weights are adjusted for the removed neurons. Pure tensors.

Importing this package registers the built-in compensations.
"""

from hf_vbp.compensation.base import (
    Compensated,
    Compensation,
    CompensationWarning,
    compensate,
    register_compensation,
)
from hf_vbp.compensation.linear import Linear
from hf_vbp.compensation.mean import Mean
from hf_vbp.compensation.none import NoCompensation

__all__ = [
    "Compensated",
    "Compensation",
    "CompensationWarning",
    "Linear",
    "Mean",
    "NoCompensation",
    "compensate",
    "register_compensation",
]
