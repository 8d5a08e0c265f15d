"""The multiple that widths are rounded to, where it is to be measured."""

from dataclasses import replace
from typing import Any

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.config.limits import AUTO
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions, current_conditions, same_conditions
from hf_vbp.costs.width_multiple import fastest_multiple
from hf_vbp.statistics.lever_measurements import LeverMeasurements


def measured_rounding(
    prepared: PreparedModel,
    config: VBPConfig,
    measurements: LeverMeasurements | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the multiple of a configuration with ``round_to="auto"``, and what it was measured on.

    Args:
        prepared: The dense model.
        config: The configuration.
        measurements: What was measured of merged tokens: its multiple is used again under the same conditions, so that
            a later plan chooses among the same widths.
        progress: Receives the number of finished rounds of the measurement, and an estimate of all.

    Returns:
        The result of :func:`hf_vbp.costs.width_multiple.fastest_multiple`; empty where the configuration gives the
        multiple.
    """
    if config.round_to != AUTO:
        return {}
    options = options_of(config)
    known = {} if measurements is None else dict(measurements.rounding)
    conditions = current_conditions(prepared.model, options)
    if "multiple" in known and same_conditions(known, conditions):
        return known
    return fastest_multiple(prepared, options, progress)


def with_rounding(config: VBPConfig, rounding: dict[str, Any]) -> VBPConfig:
    """Return a configuration with a measured multiple; unchanged where none was measured."""
    return replace(config, round_to=rounding["multiple"]) if rounding else config


def options_of(config: VBPConfig) -> LatencyOptions:
    """Return the conditions under which a latency budget and the multiple of the widths are measured."""
    return LatencyOptions(
        batch=config.latency_batch,
        precision=config.latency_precision,
        dtype=config.latency_dtype,
        compile=config.latency_compile,
    )
