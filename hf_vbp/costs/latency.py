"""Measured latency of models, dense and pruned."""

import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.errors import ConfigurationError
from hf_vbp.inputs.images import blank_images


def measure_latency(
    model: nn.Module,
    batch: int = 1,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    repetitions: int = 30,
    warmup: int = 5,
) -> dict[str, Any]:
    """Measure how long a forward pass takes.

    Args:
        model: A vision model of transformers. It is not changed: for another device or dtype a copy is made.
        batch: Images in a pass.
        device: Where to measure; by default where the model is.
        dtype: In what; by default what the model is.
        repetitions: How many passes are timed, each by itself.
        warmup: How many passes go before.

    Returns:
        ``device``, ``device_name``, ``dtype``, ``batch``, ``repetitions``, ``threads``, the ``median_ms``,
        ``p10_ms``, ``p90_ms`` and ``min_ms`` of one pass in milliseconds, and ``images_per_second`` at the
        median.

    Raises:
        ConfigurationError: ``batch`` or ``repetitions`` is below 1.
    """
    _check_repetitions(batch, repetitions)
    parameter = next(model.parameters())
    target = torch.device(device) if device is not None else parameter.device
    kind = dtype or parameter.dtype
    if (target, kind) != (parameter.device, parameter.dtype):
        model = copy.deepcopy(model).to(target, kind)
    pixel_values = blank_images(model, batch)
    times = _time_in_turn([model], pixel_values, repetitions, warmup)[0]
    deciles = statistics.quantiles(times, n=10, method="inclusive") if len(times) > 1 else times * 9
    median = statistics.median(times)
    return {
        "device": target.type,
        "device_name": _device_name(target),
        "dtype": str(kind).removeprefix("torch."),
        "batch": batch,
        "repetitions": repetitions,
        "threads": torch.get_num_threads(),
        "median_ms": median * 1e3,
        "p10_ms": deciles[0] * 1e3,
        "p90_ms": deciles[-1] * 1e3,
        "min_ms": min(times) * 1e3,
        "images_per_second": batch / median,
    }


def latency_of_widths(
    model: nn.Module | PreparedModel, batch: int = 1, *, repetitions: int = 20, warmup: int = 3
) -> Callable[[Sequence[int]], float]:
    """Return what measures, on this device, the share of the dense latency that given widths need.

    The time of a pass does not depend on the weights' values, so a copy of the model keeps the first neurons of
    each site. Dense and pruned passes take turns, so that a clock that drifts touches both alike. Each list of
    widths is measured once.

    Args:
        model: The dense model, with MLP sites; not changed. A second copy of it is held while measuring.
        batch: Images in a pass.
        repetitions: Timed passes of either model.
        warmup: Passes of either before.

    Returns:
        A function from one width per site, in block order, to median latency over dense median latency.

    Raises:
        ConfigurationError: ``batch`` or ``repetitions`` is below 1.
    """
    _check_repetitions(batch, repetitions)
    prepared = prepare(model)
    known: dict[tuple[int, ...], float] = {}

    def fraction(widths: Sequence[int]) -> float:
        key = tuple(widths)
        if key not in known:
            models = [prepared.model, _with_widths(prepared, key)]
            dense, pruned = _time_in_turn(models, blank_images(prepared.model, batch), repetitions, warmup)
            known[key] = statistics.median(pruned) / statistics.median(dense)
        return known[key]

    return fraction


def _with_widths(prepared: PreparedModel, widths: Sequence[int]) -> Any:
    """Return a copy whose sites keep their first neurons; only its shapes are of use."""
    resized = copy.deepcopy(prepared.model)
    for site, width in zip(prepared.sites, widths, strict=True):
        fc1, fc2 = (resized.get_submodule(name) for name in (site.fc1_name, site.fc2_name))
        fc1.weight = nn.Parameter(fc1.weight.detach()[:width].clone())
        if fc1.bias is not None:
            fc1.bias = nn.Parameter(fc1.bias.detach()[:width].clone())
        fc2.weight = nn.Parameter(fc2.weight.detach()[:, :width].clone())
        fc1.out_features = fc2.in_features = width
    return resized


def _time_in_turn(
    models: Sequence[nn.Module], pixel_values: torch.Tensor, repetitions: int, warmup: int
) -> list[list[float]]:
    """Return for each model the seconds of each of its timed passes; the models take turns."""
    modes = [model.training for model in models]
    times: list[list[float]] = [[] for _ in models]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            for repetition in range(-warmup, repetitions):
                for model, taken in zip(models, times, strict=True):
                    seconds = _time_once(model, pixel_values)
                    if repetition >= 0:
                        taken.append(seconds)
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return times


def _time_once(model: nn.Module, pixel_values: torch.Tensor) -> float:
    _synchronize(pixel_values.device)
    started = time.perf_counter()
    model(pixel_values=pixel_values)
    _synchronize(pixel_values.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done its work: passes are only queued on anything but a CPU."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def _check_repetitions(batch: int, repetitions: int) -> None:
    if batch < 1 or repetitions < 1:
        raise ConfigurationError(f"batch and repetitions must be at least 1, got {batch} and {repetitions}.")
