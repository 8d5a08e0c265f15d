"""Cost of the statistics pass, as ratios to the forward pass alone on the same batches, in one run.

    python -m benchmarks.statistics [--models deit-s deit-b] [--batches 1 16 64] [--rounds 7] [--threads 2]

Columns: the forward pass alone; a hook with ``torch.var_mean`` at every site; means and variances (``diagonal``); also
covariances of all images and of one half (``full``); with ``--metric`` also the output metric (``metric``) and
everything together (``all``: covariances, one half, output metric, token weights). Then the peak memory of the pass
above that of the forward pass, after one batch and after four.

Measured with torch 2.13 in float32, ``--threads 2``, on an AMD EPYC (several runs of 9 or 11 rounds) and on a Xeon
with AMX (7 rounds, 3 for batch 64):

    AMD EPYC
    model    batch  forward ms  var_mean hook  diagonal         full
    deit-s      16    886 - 913   1.19 - 1.20  1.02 - 1.06  1.64 - 1.80
    deit-b      16         3223          1.11         0.99         1.60

    Xeon with AMX
    model    batch  forward ms  var_mean hook  diagonal   full  metric     all
    deit-s       1        52.9          1.263     1.170  2.162   2.566   4.724
    deit-s      16       586.6          1.372     1.065  1.789   2.388   3.801
    deit-s      64      2730.5          1.456     1.090  1.682
    deit-b       1       161.7          1.219     1.103  2.251   2.338   4.778
    deit-b      16      2174.9          1.295     1.040  1.722   2.106   3.596
    deit-b      64      9604.9          1.267     1.028  1.606

    deit-s      16  full         263.7 MiB after 1 batch,    266.6 MiB after 4
    deit-b      16  diagonal       3.6 MiB after 1 batch,      4.0 MiB after 4
    deit-b      16  full         989.1 MiB after 1 batch,    921.8 MiB after 4
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import sys

# This file has the name of a module of the standard library, which other modules must still find.
sys.path = [folder for folder in sys.path if folder != os.path.dirname(os.path.abspath(__file__))]

import argparse
import copy
import ctypes
import functools
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.batch_moments import Workspace
from hf_vbp.calibration.hooked_model import HookedModel
from hf_vbp.calibration.site_accumulator import SiteAccumulator
from hf_vbp.config.requirements import Requirements
from hf_vbp.statistics.fingerprints import ImageSketch, hash_images

SHAPES = {
    "deit-ti": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "deit-s": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "deit-b": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
# Two blocks of each half, so that batches of 1 and 16 touch both.
IMAGES = 64
DIAGONAL, FULL, METRIC = Requirements(), Requirements(covariances=True, halves=True), Requirements(output_metric=True)
ALL = FULL | METRIC | Requirements(token_weights=True)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


class Bare:
    """The forward pass alone."""

    def __init__(self, model: ViTForImageClassification) -> None:
        self.model = model

    def __call__(self, images: torch.Tensor, indices: range) -> None:
        """Run the model."""
        with torch.inference_mode():
            self.model(pixel_values=images)


class Naive(Bare):
    """For comparison: ``torch.var_mean`` of every site in a hook."""

    def __call__(self, images: torch.Tensor, indices: range) -> None:
        """Run the model with the hooks."""

        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            torch.var_mean(inputs[0].flatten(0, -2), 0)

        handles = [site.fc2.register_forward_pre_hook(hook) for site in find_sites(self.model)]
        super().__call__(images, indices)
        for handle in handles:
            handle.remove()


class Pass:
    """Everything that a pass does with one batch, on a copy of the model that shares its weights."""

    def __init__(self, model: ViTForImageClassification, requires: Requirements) -> None:
        model = copy.deepcopy(model, {id(tensor): tensor for tensor in model.parameters()})
        workspace = Workspace()
        self.accumulators = [SiteAccumulator(site, workspace, requires) for site in find_sites(model)]
        self.listening = HookedModel(model, self.accumulators, 0 if requires.output_metric else None)
        self.listening.__enter__()
        self.sketch = ImageSketch()

    def __call__(self, images: torch.Tensor, indices: range) -> None:
        """Hash the images and run the model with hooks at every site."""
        self.sketch.update(hash_images(images))
        self.listening.run(images, indices)


def main() -> None:
    """Print one table for each device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["deit-s", "deit-b"], choices=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--metric", action="store_true", help="also time the output metric, and everything together")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cpu-time", action="store_true", help="best processor time instead of median wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        name = torch.cuda.get_device_name() if device == "cuda" else f"{options.threads} threads"
        print(f"{device} ({name}), torch {torch.__version__}, {options.dtype}, {options.rounds} rounds")
        print(
            "model    batch  forward ms  var_mean hook  diagonal   full"
            + ("  metric     all" if options.metric else "")
        )
        for shape in options.models:
            for batch in options.batches:
                print_row(shape, batch, torch.device(device), options)
        print("peak memory over the bare forward")
        for shape in options.models:
            print_memory(shape, 16, torch.device(device), options)


def keep_freed_memory() -> None:
    """Reuse freed memory, so that page faults do not affect single measurements by chance."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 1024**2)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def print_row(shape: str, batch: int, device: torch.device, options: argparse.Namespace) -> None:
    """Time one shape and batch; the variants alternate, so that other load affects all of them equally."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=12, num_labels=1000, **SHAPES[shape]))
    model = model.to(device, getattr(torch, options.dtype)).eval()
    ways: dict[str, Callable[[torch.Tensor, range], None]] = {
        "bare": Bare(model),
        "naive": Naive(model),
        "diagonal": Pass(model, DIAGONAL),
        "full": Pass(model, FULL),
    }
    if options.metric:
        ways["metric"] = Pass(model, METRIC)
        ways["all"] = Pass(model, ALL)
    images = torch.randn(batch, 3, 224, 224, device=device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, way in ways.items():
            first = turn * batch % IMAGES // batch * batch
            task = functools.partial(way, images, range(first, first + batch))
            elapsed = seconds(task, device, batch, time.process_time if options.cpu_time else time.perf_counter)
            if turn:
                times[name].append(elapsed)
    middle = min if options.cpu_time else statistics.median
    bare = middle(times["bare"])
    ratios = [ratio(times[name], times["bare"], options.cpu_time) for name in ways if name != "bare"]
    columns = "".join(f"{value:>{width}.3f}" for value, width in zip(ratios, (15, 10, 7, 8, 8), strict=False))
    print(f"{shape:8}{batch:>6}{1e3 * bare:>12.1f}{columns}", flush=True)


def ratio(mine: list[float], bare: list[float], best: bool) -> float:
    """Return the median of the ratios within a turn, or the ratio of the best times."""
    return min(mine) / min(bare) if best else statistics.median(a / b for a, b in zip(mine, bare, strict=True))


def print_memory(shape: str, batch: int, device: torch.device, options: argparse.Namespace) -> None:
    """Print the peak of the pass above the peak of the bare forward, after one batch and after four."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=12, num_labels=1000, **SHAPES[shape]))
    model = model.to(device, getattr(torch, options.dtype)).eval()
    images = torch.randn(batch, 3, 224, 224, device=device)
    makers: dict[str, Callable[[], Callable[[torch.Tensor, range], None]]] = {
        "bare": lambda: Bare(model),
        "diagonal": lambda: Pass(model, DIAGONAL),
        "full": lambda: Pass(model, FULL),
    }

    def task(name: str, batches: int) -> None:
        way = makers[name]()
        for number in range(batches):
            way(images, range(number * batch, (number + 1) * batch))

    task("bare", 1)
    peaks = {(name, n): peak_bytes(lambda name=name, n=n: task(name, n), device) for name in makers for n in (1, 4)}
    for name in ("diagonal", "full"):
        over = [(peaks[name, n] - peaks["bare", n]) / 2**20 for n in (1, 4)]
        print(
            f"{shape:8}{batch:>6}  {name:9} {over[0]:8.1f} MiB after 1 batch, {over[1]:8.1f} MiB after 4", flush=True
        )


def peak_bytes(task: Callable[[], None], device: torch.device) -> int:
    """Return the peak memory during ``task`` above the memory in use before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        return torch.cuda.max_memory_allocated() - before
    # Make the allocator return freed memory at once; memory that it keeps would distort the difference.
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
    libc.mallopt(M_TRIM_THRESHOLD, 64 * 1024)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    task()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def seconds(task: Callable[[], None], device: torch.device, batch: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one ``task``; short ones are run several times."""
    repeats = max(1, 8 // batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


if __name__ == "__main__":
    main()
