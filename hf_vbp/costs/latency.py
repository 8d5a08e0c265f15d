"""Measured latency of models, dense and pruned."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.prepared import PreparedModel, prepare
from hf_vbp.costs.device_name import device_name
from hf_vbp.costs.timing import Effort, Times, median_interval, time_in_turns
from hf_vbp.errors import ConfigurationError, LatencyError
from hf_vbp.inputs.batch import main_input, model_inputs, repeat_images
from hf_vbp.inputs.example import example_batch
from hf_vbp.modeling.modeling_hf_vbp import take_neurons
from hf_vbp.modeling.shared_copy import converted_copy, copy_sharing_tensors
from hf_vbp.token_merging.merge_tokens import merge_tokens


@dataclass(frozen=True)
class LatencyOptions:
    """The conditions of a measurement.

    Attributes:
        batch: Images per pass.
        device: Device to measure on; by default that of the model.
        dtype: Dtype to measure in, such as ``"bfloat16"``; by default that of the model.
        compile: Whether to measure the models compiled by ``torch.compile``.
        threads: Threads of the CPU; by default those of the process.
        precision: Repeat until the 95 % interval of the median ratio is at most this share of it to either side.
        repetitions: Most passes of each model.
        seconds: Longest time.

    Raises:
        ConfigurationError: A value is out of range, or there is no such dtype.
    """

    batch: int = 1
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    compile: bool = False
    threads: int | None = None
    precision: float = Effort.precision
    repetitions: int = Effort.repetitions
    seconds: float = Effort.seconds

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigurationError(
                    f"The {name} of a latency must be a whole number of at least 1, got {value!r}."
                )
        # Validates them.
        _ = self.effort, self.torch_dtype

    @property
    def effort(self) -> Effort:
        """When to stop repeating."""
        return Effort(self.precision, self.repetitions, self.seconds)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype; None for that of the model."""
        if self.dtype is None or isinstance(self.dtype, torch.dtype):
            return self.dtype
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ConfigurationError(
                f"Unknown dtype {self.dtype!r} for a latency; expected float32, bfloat16 or float16."
            )
        return found


def measure_latency(
    models: Mapping[str, nn.Module],
    options: LatencyOptions | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure how long a forward pass of each model takes, and the speed-up against the first one.

    The models take turns, and passes are repeated until the 95 % confidence interval of the median ratio to the first
    model is small. Slow passes are repeated less often.

    Args:
        models: Models of transformers by name, the dense one first. They are not changed: for another device or dtype
            copies are made.
        options: Batch, device, dtype, threads and precision.
        inputs: A batch of one image, which is repeated; by default images of the size that the config describes.
        progress: Receives the number of finished repetitions and an estimate of all.

    Returns:
        One row per model: ``model``, ``device``, ``device_name``, ``dtype``, ``batch``, ``threads``, ``repetitions``,
        the ``median_ms``, ``p10_ms``, ``p90_ms`` and ``min_ms`` of one pass in milliseconds, and
        ``images_per_second`` at the median. From the second row on also ``speedup``, the time of the first model over
        that of this one (the median over repetitions), and ``speedup_interval``, its 95 % confidence interval.

    Raises:
        LatencyError: The times vary too much on this machine.
        ConfigurationError: There are no models.

    Example:
        >>> import hf_vbp
        >>> from hf_vbp.costs.latency import LatencyOptions, measure_latency
        >>> model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
        >>> rows = measure_latency({"dense": model}, LatencyOptions(batch=2, precision=0.9))
        >>> rows[0]["batch"]
        2
    """
    options = options or LatencyOptions()
    if not models:
        raise ConfigurationError("There is no model to measure.")
    measured = _on(list(models.values()), options)
    given = example_batch(measured[0], options.batch) if inputs is None else repeat_images(inputs, options.batch)
    inputs = model_inputs(measured[0], given)
    with cpu_threads(options.threads):
        times = time_in_turns(measured, inputs, options.effort, progress)
        conditions = _conditions(inputs[main_input(inputs, measured[0])], options)
        _check_certain(times, options, conditions)
    rows = [_row(name, own, conditions) for name, own in zip(models, times.passes, strict=True)]
    for row, ratios in zip(rows[1:], times.compared(), strict=False):
        low, high = median_interval(ratios)
        row |= {"speedup": 1 / statistics.median(ratios), "speedup_interval": [1 / high, 1 / low]}
    return rows


def latency_of_widths(
    model: nn.Module | PreparedModel,
    widths: Sequence[int],
    options: LatencyOptions | None = None,
    *,
    merged_tokens: Sequence[int] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a dense model and one whose MLPs have the given widths, in turns.

    The time of a pass does not depend on the weights' values, so each MLP of a copy keeps its first neurons. The copy
    shares all other weights with the model.

    Args:
        model: The dense model, with MLP sites; not changed.
        widths: One width per site, in block order.
        options: Batch, device, dtype, threads and precision.
        merged_tokens: Tokens that the pruned model merges before each block; empty where it merges none.
        progress: Receives the number of finished repetitions and an estimate of all.

    Returns:
        ``device``, ``device_name``, ``dtype``, ``batch``, ``threads``, ``repetitions``, ``dense_ms``, ``pruned_ms``,
        ``speedup`` and ``speedup_interval``; see :func:`measure_latency`.

    Raises:
        LatencyError: The times vary too much on this machine.
    """
    prepared = prepare(model)
    pruned = with_widths(prepared, widths)
    if any(merged_tokens):
        merge_tokens(pruned, merged_tokens)
    models = {"dense": prepared.model, "pruned": pruned}
    return summary(*measure_latency(models, options, inputs=prepared.inputs, progress=progress))


def summary(dense: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Return two rows of :func:`measure_latency` as one record, as plans hold it."""
    names = ("device", "device_name", "dtype", "batch", "threads", "compiled", "repetitions")
    shared = {key: dense[key] for key in names if key in dense}
    times = {"dense_ms": dense["median_ms"], "pruned_ms": pruned["median_ms"]}
    return {**shared, **times, "speedup": pruned["speedup"], "speedup_interval": pruned["speedup_interval"]}


def current_conditions(model: nn.Module, options: LatencyOptions) -> dict[str, Any]:
    """Return the conditions that a measurement would have now: device, dtype, batch and threads.

    Args:
        model: The model to measure.
        options: Batch, device, dtype and threads.
    """
    parameter = next(model.parameters())
    device = torch.device(options.device) if options.device is not None else parameter.device
    dtype = options.torch_dtype or parameter.dtype
    return {
        "device": device.type,
        "device_name": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "batch": options.batch,
        "threads": options.threads or torch.get_num_threads(),
        **({"compiled": True} if options.compile else {}),
    }


def same_conditions(measured: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Return whether something was measured under the conditions that :func:`current_conditions` returns."""
    compiled = [bool(one.get("compiled")) for one in (measured, conditions)]
    return compiled[0] == compiled[1] and all(measured.get(name) == value for name, value in conditions.items())


def describe_conditions(measured: Mapping[str, Any]) -> str:
    """Return the conditions of a latency as text: batch, dtype, threads and the device.

    Args:
        measured: A row of :func:`measure_latency`, or a record of :func:`latency_of_widths`.
    """
    number = measured["threads"]
    threads = f", {number} thread{'s' if number > 1 else ''}" if measured["device"] == "cpu" else ""
    compiled = ", compiled" if measured.get("compiled") else ""
    return f"batch {measured['batch']}, {measured['dtype']}{compiled}{threads}, {measured['device_name']}"


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Compute with this many threads of the CPU until the block ends; None changes nothing."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on(models: Sequence[nn.Module], options: LatencyOptions) -> list[nn.Module]:
    """Return the models, or copies, on one device and in one dtype."""
    parameter = next(models[0].parameters())
    device = torch.device(options.device) if options.device is not None else parameter.device
    dtype = options.torch_dtype or parameter.dtype
    found = [model if _is_on(model, device, dtype) else converted_copy(model, device, dtype) for model in models]
    if options.compile:
        # In place, so that the class stays; the caller's models are not compiled.
        found = [copy_sharing_tensors(model, {}) for model in found]
        for model in found:
            model.compile()
    return found


def _is_on(model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    parameter = next(model.parameters())
    return (parameter.device, parameter.dtype) == (device, dtype)


def with_widths(prepared: PreparedModel, widths: Sequence[int]) -> Any:
    """Return a copy whose sites keep their first neurons, and which shares all other tensors.

    Args:
        prepared: The dense model; it is not changed.
        widths: One width per site, in block order.
    """
    smaller: dict[int, Any] = {}
    for site, width in zip(prepared.sites, widths, strict=True):
        kept = torch.arange(width)
        for module, role in site.mlp.modules:
            smaller[id(module)] = take_neurons(site.mlp, kept, module, role).requires_grad_(False)
    return copy_sharing_tensors(prepared.model, smaller)


def _conditions(images: torch.Tensor, options: LatencyOptions) -> dict[str, Any]:
    return {
        "device": images.device.type,
        "device_name": device_name(images.device),
        "dtype": str(images.dtype).removeprefix("torch."),
        "batch": options.batch,
        "threads": torch.get_num_threads(),
        **({"compiled": True} if options.compile else {}),
    }


def _row(name: str, seconds: Sequence[float], conditions: Mapping[str, Any]) -> dict[str, Any]:
    deciles, median = statistics.quantiles(seconds, n=10, method="inclusive"), statistics.median(seconds)
    return {
        "model": name,
        **conditions,
        "repetitions": len(seconds),
        "median_ms": median * 1e3,
        "p10_ms": deciles[0] * 1e3,
        "p90_ms": deciles[-1] * 1e3,
        "min_ms": min(seconds) * 1e3,
        "images_per_second": conditions["batch"] / median,
    }


def _rounded_up(share: float) -> float:
    return math.ceil(100 * share + 1) / 100


def _check_certain(times: Times, options: LatencyOptions, conditions: Mapping[str, Any]) -> None:
    """Refuse times whose median is too uncertain to be of use."""
    uncertainty = times.uncertainty()
    if uncertainty > options.precision:
        raise LatencyError(
            f"This machine is too noisy to measure a latency: after {times.rounds} repetitions in "
            f"{times.elapsed:.0f} s the median is certain to within {100 * uncertainty:.1f} % only, and "
            f"{100 * options.precision:g} % is needed ({describe_conditions(conditions)}). Stop other work on the "
            "machine and try again, use fewer threads (--threads) or a larger batch (--latency-batch), or accept less "
            f"precision (--latency-precision {_rounded_up(uncertainty)}, latency_precision from Python)."
        )
