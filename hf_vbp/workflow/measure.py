"""Latency of the dense and the pruned model for the commands."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.costs.latency import LatencyOptions, latency_of_widths, measure_latency
from hf_vbp.errors import LatencyError
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.workflow.each_lever import models_of_each_lever, with_levers
from hf_vbp.workflow.requests import Reporter

DEFAULT_BATCHES = (1, 16)


def measure_all(
    dense: PreparedModel,
    pruned: nn.Module,
    results: dict[str, Any],
    conditions: Sequence[LatencyOptions],
    reporter: Reporter,
) -> dict[str, Any]:
    """Return the results with the latency of both models, in turns, under each of the conditions.

    Where the pruned model uses two levers, each of them alone is measured in the same turns, for ``levers``.

    Where the machine is too noisy, the measurement is reported and left out, because earlier work must not be lost.

    Args:
        dense: The model before pruning.
        pruned: The model after pruning.
        results: The results so far.
        conditions: The conditions of each measurement.
        reporter: Receives progress updates and remarks.
    """
    rows: list[dict[str, Any]] = []
    each = models_of_each_lever(dense.model, pruned)
    models = {"dense": dense.model, "pruned": pruned, **each}
    for options in conditions:
        with reporter.stage(f"Latency, batch {options.batch}") as progress:
            try:
                rows += measure_latency(models, options, inputs=dense.inputs, progress=progress)
            except LatencyError as error:
                reporter.warn(f"The latency at batch {options.batch} is left out. {error}")
    results = with_levers(results, each, dense.inputs, latency=rows)
    return {**results, "latency": [row for row in rows if row["model"] not in each]}


def measure_plan(
    prepared: PreparedModel, plan: PruningPlan, options: LatencyOptions, reporter: Reporter
) -> dict[str, Any] | None:
    """Return the latency of a plan, or None and a warning where the machine is too noisy.

    Args:
        prepared: The dense model.
        plan: The plan, with its widths and merged tokens.
        options: The conditions of the measurement.
        reporter: Receives progress updates and remarks.
    """
    with reporter.stage("Latency of the plan") as progress:
        try:
            return latency_of_widths(
                prepared, plan.widths, options, merged_tokens=plan.merged_tokens, progress=progress
            )
        except LatencyError as error:
            reporter.warn(f"The latency of the plan is left out. {error}")
            return None
