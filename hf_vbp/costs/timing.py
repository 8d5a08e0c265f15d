"""Timed passes of several models in turns, repeated until the result is certain enough."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.config.budget import DEFAULT_PRECISION
from hf_vbp.errors import ConfigurationError
from hf_vbp.modeling.precision import own_precision

# With fewer values, no 95 % interval of a median exists.
FEWEST = 6
# Fast passes are repeated at least this often, because an interval of few values can be narrow by chance.
USUAL, SOON = 20, 10.0
WARMUP_PASSES, WARMUP_SECONDS = 3, 2.0


@dataclass(frozen=True)
class Effort:
    """When to stop repeating a measurement.

    Attributes:
        precision: Stop when the 95 % interval of the median is at most this share of the median to either side.
        repetitions: Stop after this many passes of each model.
        seconds: Stop after this time, but not before 6 passes of each model.

    Raises:
        ConfigurationError: ``precision`` is not in (0, 1), ``repetitions`` is below 6, or ``seconds`` is not positive.
    """

    precision: float = DEFAULT_PRECISION
    repetitions: int = 1000
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.precision < 1:
            raise ConfigurationError(f"The precision must be between 0 and 1, got {self.precision!r}.")
        if self.repetitions < FEWEST or not self.seconds > 0:
            raise ConfigurationError(
                f"A latency needs at least {FEWEST} repetitions and a time above 0 s, got {self.repetitions} and "
                f"{self.seconds!r}."
            )


@dataclass
class Times:
    """Seconds of each pass of each model; value ``i`` of all models was taken in the same round.

    Attributes:
        passes: One list per model.
        elapsed: Seconds since the first timed pass.
    """

    passes: list[list[float]]
    elapsed: float = 0.0
    _started: float = field(default_factory=lambda: time.perf_counter())

    @property
    def rounds(self) -> int:
        """The number of passes of each model."""
        return len(self.passes[-1])

    def compared(self) -> list[list[float]]:
        """Return the values to measure: the ratios to the first model, or the times of a single model."""
        if len(self.passes) == 1:
            return self.passes
        first = self.passes[0]
        return [[own / dense for own, dense in zip(times, first, strict=True)] for times in self.passes[1:]]

    def uncertainty(self) -> float:
        """Return the widest interval of a median, as the share of the median that it extends to either side."""
        return max(median_uncertainty(values) for values in self.compared())


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, from order statistics, without assuming a distribution.

    Args:
        values: At least 6 values.
    """
    ordered, number = sorted(values), len(values)
    # The largest rank r for which fewer than r of the values are below the median with probability 2.5 % at most.
    rank, below = 0, 0
    while 40 * (below + math.comb(number, rank)) <= 2**number:
        below += math.comb(number, rank)
        rank += 1
    return (ordered[rank - 1], ordered[number - rank]) if rank else (-math.inf, math.inf)


def time_in_turns(
    models: Sequence[nn.Module], inputs: Mapping[str, Any], effort: Effort, progress: Progress | None = None
) -> Times:
    """Time passes of the models in turns, so that a clock that drifts affects all of them.

    Args:
        models: The models, on the device of the inputs. Their mode is restored.
        inputs: The arguments of the forward pass.
        effort: When to stop.
        progress: Receives the number of rounds and an estimate of all.

    Returns:
        The times. They may be less certain than ``effort.precision`` where a bound was reached first.
    """
    modes = [model.training for model in models]
    with ExitStack() as stack:
        stack.enter_context(own_precision(*models))
        for model, mode in zip(models, modes, strict=True):
            stack.callback(model.train, mode)
            model.eval()
        stack.enter_context(torch.no_grad())
        _warm_up(models, inputs)
        times, next_check = Times([[] for _ in models]), FEWEST
        while True:
            _add_round(times, models, inputs)
            exhausted = times.elapsed >= effort.seconds and times.rounds >= FEWEST
            if times.rounds < next_check and not exhausted:
                continue
            next_check = min(math.ceil(times.rounds * 1.1), effort.repetitions)
            uncertainty = times.uncertainty()
            if progress is not None:
                progress(times.rounds, _expected(times.rounds, uncertainty, effort))
            settled = times.rounds >= USUAL or times.elapsed >= SOON
            if exhausted or times.rounds >= effort.repetitions or (settled and uncertainty <= effort.precision):
                return times


def _warm_up(models: Sequence[nn.Module], inputs: Mapping[str, Any]) -> None:
    started = time.perf_counter()
    for passes in range(WARMUP_PASSES):
        if passes and time.perf_counter() - started > WARMUP_SECONDS:
            return
        for model in models:
            _time_once(model, inputs)


def _add_round(times: Times, models: Sequence[nn.Module], inputs: Mapping[str, Any]) -> None:
    # Each model begins as often as any other: the first of a round follows a pause of this loop.
    first = times.rounds % len(models)
    for index in (*range(first, len(models)), *range(first)):
        times.passes[index].append(_time_once(models[index], inputs))
    times.elapsed = time.perf_counter() - times._started


def _time_once(model: nn.Module, inputs: Mapping[str, Any]) -> float:
    device = next(model.parameters()).device
    _synchronize(device)
    started = time.perf_counter()
    model(**inputs)
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    """Wait until the device has finished: other devices than CPUs only queue the passes."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def median_uncertainty(values: Sequence[float]) -> float:
    """Return how far the 95 % interval of the median extends to either side, as a share of the median.

    Args:
        values: At least 6 positive values; with fewer, the interval is infinite.
    """
    low, high = median_interval(values)
    median = statistics.median(values)
    return max(high - median, median - low) / median


def _expected(rounds: int, uncertainty: float, effort: Effort) -> int:
    """Return the number of rounds that should suffice: the interval shrinks with the root of the number."""
    needed = rounds * (uncertainty / effort.precision) ** 2
    return max(rounds, USUAL, min(effort.repetitions, math.ceil(min(needed, effort.repetitions))))
