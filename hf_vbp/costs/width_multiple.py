"""The multiple of the widths that is fastest for the shape, the dtype and the device of a model."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import Progress
from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.prepared import PreparedModel
from hf_vbp.costs.latency import LatencyOptions, cpu_threads, current_conditions
from hf_vbp.costs.timing import Effort, Times, median_interval, time_in_turns
from hf_vbp.inputs.batch import model_inputs, repeat_images
from hf_vbp.modeling.modeling_hf_vbp import take_neurons
from hf_vbp.modeling.precision import eval_mode, own_precision

MULTIPLES = (1, 8, 16, 32, 64, 128)
LONGEST_STEP, ALTERNATING_BITS = 128, 0b1010101
# A multiple is taken for a gain that is larger than this, and of those within this of the best one the smallest.
GAIN = 0.02
EFFORT = Effort(precision=0.01, repetitions=200, seconds=10.0)


class TimedMLP(nn.Module):
    """The projections of an MLP with this many hidden neurons, without what is between them.

    Attributes:
        width: The number of hidden neurons.
    """

    def __init__(self, site: MLPSite, width: int) -> None:
        super().__init__()
        kept = torch.arange(width)
        made = [take_neurons(site.mlp, kept, module, role) for module, role in site.mlp.modules if role in _TIMED]
        self.width, self.packed = width, site.mlp.layout.packed
        self.ups, self.down = nn.ModuleList(made[:-1]), made[-1]
        self.requires_grad_(False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the output of the MLP."""
        values = [up(hidden) for up in self.ups]
        if self.packed:
            values = list(values[0].split(self.width, dim=1 if isinstance(self.down, nn.Conv2d) else -1))
        gate = nn.functional.gelu(values[0])
        return self.down(gate if len(values) == 1 else gate * values[1])  # type: ignore[no-any-return]


_TIMED = ("up", "down")


def fastest_multiple(
    prepared: PreparedModel, options: LatencyOptions | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure which multiple of the widths is fastest for one MLP of the model's shape.

    MLPs of about three quarters of the dense width, whose widths are odd multiples of 1, 8, 16, ...
    (:func:`tried_widths`), run in turns on the hidden states of a forward pass. The multiple of the least time per
    neuron is taken, the smallest of those that are within 2 % of it, and 1 where none is certainly more than 2 %
    faster than widths as they come. Multiples above an eighth of the dense width are not tried, because budgets could
    not be met closely.

    Args:
        prepared: The model; it is not changed.
        options: Batch and threads; device and dtype are those of the model.
        progress: Receives the number of finished rounds and an estimate of all.

    Returns:
        ``multiple``, the conditions ``device``, ``device_name``, ``dtype``, ``batch`` and ``threads``, and
        ``speedups``, the time per neuron of widths as they come over that of each multiple.
    """
    options = options or LatencyOptions()
    conditions = current_conditions(prepared.model, options)
    key = ("fastest multiple", tuple(conditions.values()))
    if key not in prepared.costs:
        prepared.costs[key] = {**_measured(prepared, options, progress), **conditions}
    return dict(prepared.costs[key])


def tried_widths(dense_width: int) -> dict[int, int]:
    """Return the multiples that are tried for a dense width, with a width of each that is no larger multiple.

    Each is about in the middle between multiples of 16, 32, ..., as widths are on average that were not rounded to
    them, so that a device that computes in such steps is seen.

    Example:
        >>> tried_widths(768)
        {1: 597, 8: 552, 16: 592, 32: 544, 64: 576}
    """
    tried = {}
    for multiple in MULTIPLES:
        if multiple <= dense_width // 8 or multiple == 1:
            period = 2 ** max((min(LONGEST_STEP, dense_width // 2) // multiple).bit_length() - 1, 1)
            counts = range(ALTERNATING_BITS % period, dense_width // multiple + 1, period)
            tried[multiple] = multiple * min(counts, key=lambda count: abs(count * multiple - dense_width * 3 / 4))
    return tried


def chosen_multiple(widths: dict[int, int], times: Times) -> tuple[int, dict[int, float]]:
    """Return the multiple to take, and the speed-up per neuron of each one over widths as they come.

    Args:
        widths: The result of :func:`tried_widths`, in the order of the times.
        times: The times of each.
    """
    first, *others = widths
    speedups, certain = {first: 1.0}, {first: 1.0}
    for multiple, ratios in zip(others, times.compared(), strict=True):
        per_neuron = [ratio * widths[first] / widths[multiple] for ratio in ratios]
        speedups[multiple] = 1 / statistics.median(per_neuron)
        if median_interval(per_neuron)[1] < 1 - GAIN:
            certain[multiple] = speedups[multiple]
    best = max(certain.values())
    return min(multiple for multiple, gain in certain.items() if gain >= best * (1 - GAIN)), speedups


def _measured(prepared: PreparedModel, options: LatencyOptions, progress: Progress | None) -> dict[str, Any]:
    site = _usual_site(prepared.sites)
    widths = tried_widths(site.intermediate_size)
    if len(widths) == 1:
        return {"multiple": 1}
    mlps = [TimedMLP(site, width) for width in widths.values()]
    with cpu_threads(options.threads):
        times = time_in_turns(mlps, {"hidden": _input_of(prepared, site, options.batch)}, EFFORT, progress)
    multiple, speedups = chosen_multiple(widths, times)
    return {"multiple": multiple, "speedups": {str(one): speedup for one, speedup in speedups.items()}}


def _usual_site(sites: Sequence[MLPSite]) -> MLPSite:
    """Return the first site of the shape that most neurons belong to."""
    neurons: Counter[tuple[int, int]] = Counter()
    for site in sites:
        neurons[site.intermediate_size, site.hidden_size] += site.intermediate_size
    shape = neurons.most_common(1)[0][0]
    return next(site for site in sites if (site.intermediate_size, site.hidden_size) == shape)


def _input_of(prepared: PreparedModel, site: MLPSite, batch: int) -> Tensor:
    """Return the hidden states that a site receives in a forward pass."""
    model, received = prepared.model, []
    inputs = repeat_images(prepared.inputs or {}, batch)
    up = site.mlp.ups[0]
    handle = up.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    try:
        with own_precision(model), eval_mode(model), torch.no_grad():
            model(**model_inputs(model, inputs))
    finally:
        handle.remove()
    hidden: Tensor = received[0]
    return hidden
