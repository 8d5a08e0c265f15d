"""The models of a sweep: every method at every ratio, or every lever at every share of MACs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.calibration.source import Source
from hf_vbp.config.levers import LEVERS
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError, DataError
from hf_vbp.pruning.levers import check_levers, check_tokens
from hf_vbp.pruning.rounding import measured_rounding, with_rounding
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.measure_levers import chooses_tokens

Row = dict[str, Any]
DEFAULT_MACS = (0.9, 0.8, 0.7, 0.6, 0.5)


def sweep_tasks(
    methods: Sequence[VBPConfig],
    ratios: Sequence[float] | None = None,
    *,
    macs: Sequence[float] | None = None,
    levers: Sequence[str] | None = None,
) -> list[VBPConfig]:
    """Return the configurations of a sweep, each once.

    Args:
        methods: The methods.
        ratios: Shares of hidden neurons to remove.
        macs: In place of ``ratios``: shares of the MACs to keep; by default :data:`DEFAULT_MACS`.
        levers: The levers to compare, each alone and all together, at every share of the MACs; without them, those
            of the method.

    Raises:
        ConfigurationError: There is no method or no point, there are both ratios and shares of MACs, or a lever is
            unknown.
        BudgetError: A share is not between 0 and 1.
    """
    by_macs = macs is not None or levers is not None
    if by_macs and ratios is not None:
        raise ConfigurationError(
            "ratios are shares of removed neurons, which merged tokens do not change. Give either ratios, or levers "
            "with macs, shares of the MACs to keep."
        )
    shares = (DEFAULT_MACS if macs is None else macs) if by_macs else ratios
    if not shares or not methods:
        raise ConfigurationError("A sweep needs a method and at least one ratio, for instance ratios=[0.25, 0.5].")
    tasks: list[VBPConfig] = []
    for method in methods:
        for combination in _combinations(levers):
            for share in shares:
                task = method.with_budget(**{"target_macs" if by_macs else "ratio": share})
                if combination is not None:
                    task = replace(task, levers=combination)
                if task not in tasks:
                    tasks.append(task)
    return tasks


def reachable_tasks(
    prepared: PreparedModel, tasks: Sequence[VBPConfig], on_unreachable: Callable[[str], None]
) -> list[VBPConfig]:
    """Return the configurations that the model can meet, with the levers that it allows and measured multiples.

    A share of MACs that one lever cannot reach is left out, because another one may reach it. A ratio that cannot be
    reached is an error.

    Args:
        prepared: The model.
        tasks: The configurations.
        on_unreachable: Receives the reason for each configuration that is left out.

    Raises:
        BudgetError: A ratio cannot be reached, or none of the shares of MACs.
        ConfigurationError: A lever is asked for that the model does not allow.
    """
    found: list[VBPConfig] = []
    error: BudgetError | None = None
    for task in tasks:
        try:
            check_levers(prepared, task)
        except BudgetError as refused:
            if task.target_macs is None:
                raise
            error = error or refused
            on_unreachable(f"levers {','.join(task.used_levers)}: {refused}")
        else:
            rounded = with_rounding(task, measured_rounding(prepared, task))
            found.append(_with_possible_levers(prepared, rounded))
    if error is not None and not found:
        raise error
    return found


def check_images(
    prepared: PreparedModel,
    tasks: Sequence[VBPConfig],
    source: Source | None,
    statistics: ActivationStatistics | None = None,
) -> None:
    """Refuse to choose merged tokens without images to measure on.

    Args:
        prepared: The model.
        tasks: The configurations.
        source: The calibration images.
        statistics: Statistics gathered earlier, which may hold measurements.

    Raises:
        DataError: There are no images, or they can be read only once.
    """
    for task in tasks:
        known = statistics is not None and statistics.measurements_of(task.method) is not None
        if known or not chooses_tokens(prepared, task):
            continue
        if source is None:
            raise DataError(
                "The number of merged tokens is chosen by the output distance on calibration images: pass data "
                "(--data) in addition to the statistics, or leave out the lever tokens."
            )
        if source.read_once:
            raise DataError(
                "The number of merged tokens is chosen on the calibration images, which this source can give only "
                "once. Pass a list of batches, a DataLoader or the result of load_images."
            )


def describe_method(task: VBPConfig) -> Row:
    """Return the columns that identify the method and the point of a row."""
    method = {name: getattr(task, name) for name in ("criterion", "compensation", "scope")}
    if task.target_macs is None:
        return {"ratio": task.budget.share, **method}
    return {"target_macs": task.target_macs, "levers": ",".join(task.used_levers), **method}


def with_method(config: VBPConfig, criterion: str, compensation: str) -> VBPConfig:
    """Return a configuration with another method and the same scope and limits."""
    none: dict[str, Any] = {}
    return replace(
        config, criterion=criterion, compensation=compensation, criterion_options=none, compensation_options=none
    )


def _combinations(levers: Sequence[str] | None) -> list[tuple[str, ...] | None]:
    if levers is None:
        return [None]
    # In one order, so that the rows of an earlier sweep are found again.
    ordered = sorted(levers, key=lambda lever: LEVERS.index(lever) if lever in LEVERS else len(LEVERS))
    alone: list[tuple[str, ...] | None] = [(lever,) for lever in ordered]
    return [*alone, tuple(ordered)] if len(ordered) != 1 else alone


def _with_possible_levers(prepared: PreparedModel, task: VBPConfig) -> VBPConfig:
    """Return the configuration without the default lever of tokens, where the model does not allow it."""
    if task.target_macs is None or check_tokens(prepared.model, task):
        return task
    return replace(task, levers=("mlp",))
