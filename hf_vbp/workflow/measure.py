"""Latency of the dense and the pruned model for the commands."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_vbp.costs.latency import LatencyOptions, measure_latency
from hf_vbp.errors import LatencyError
from hf_vbp.workflow.requests import Reporter

DEFAULT_BATCHES = (1, 16)


def measure_both(
    dense: nn.Module, pruned: nn.Module, conditions: Sequence[LatencyOptions], reporter: Reporter
) -> list[dict[str, Any]]:
    """Return the ``latency`` part of the results: both models in turns, under each of the conditions.

    Where the machine is too noisy, the measurement is reported and left out, because earlier work must not be lost.

    Args:
        dense: The model before pruning.
        pruned: The model after pruning.
        conditions: The conditions of each measurement.
        reporter: Receives progress updates and remarks.
    """
    rows: list[dict[str, Any]] = []
    for options in conditions:
        with reporter.stage(f"Latency, batch {options.batch}") as progress:
            try:
                rows += measure_latency({"dense": dense, "pruned": pruned}, options, progress=progress)
            except LatencyError as error:
                reporter.say(f"No latency at batch {options.batch}. {error}")
    return rows
