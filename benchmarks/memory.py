"""Memory that plan, surgery, saving and ``prune`` of a DeiT-Base add, starting from statistics.

    python -m benchmarks.memory [--ratio 0.55] [--criterion variance] [--compensation mean]

Makes a DeiT-Base with random weights (ViTForImageClassification, 86.57 M parameters) and its statistics, then measures
the peak of the resident set during plan, surgery, saving and ``prune`` above the resident set before them. It must be
at most the size of the model. The receipt runs in another process and is not included. Needs Linux.

Prints one JSON object; exits with 1 if the bound is exceeded or the number of parameters is not the paper's.
"""

import argparse
import functools
import gc
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.make_plan import make_plan
from hf_vbp.workflow.prune import prune

PAPER_PARAMETERS = {0.55: 55.40e6}
ResultT = TypeVar("ResultT")


def resident_bytes() -> int:
    """Return the resident set of this process."""
    return _status("VmRSS")


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_during(work: Callable[[], ResultT]) -> tuple[ResultT, int]:
    """Return the result of ``work`` and the highest resident set while it ran, in bytes."""
    samples, done = [resident_bytes()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            samples.append(resident_bytes())
            time.sleep(0.002)

    try:
        # Resets the kernel's own peak; that is not allowed everywhere, so the resident set is sampled too.
        Path("/proc/self/clear_refs").write_text("5")
        exact = True
    except OSError:
        exact = False
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, max([*samples, _status("VmHWM") if exact else 0])


def measure(ratio: float, criterion: str, compensation: str) -> dict[str, Any]:
    """Return the bytes added by each step, and the size of the model."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    config = VBPConfig(ratio=ratio, criterion=criterion, compensation=compensation)
    images = torch.randn(4, 3, 224, 224)
    statistics = collect_statistics(model, [{"pixel_values": images}], config)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    gc.collect()
    before = resident_bytes()
    plan, plan_peak = peak_during(lambda: make_plan(model, statistics, config))
    pruned, surgery_peak = peak_during(lambda: apply_plan(model, plan, statistics))
    parameters = {"dense": model.num_parameters(), "pruned": pruned.num_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        _, saving_peak = peak_during(functools.partial(save_checkpoint, pruned, folder, verify=False))
    del pruned
    gc.collect()
    _, prune_peak = peak_during(lambda: prune(model, None, config, statistics=statistics))
    peaks = {"plan": plan_peak, "surgery": surgery_peak, "saving": saving_peak, "prune": prune_peak}
    return {
        "ratio": ratio,
        "criterion": criterion,
        "compensation": compensation,
        "parameters": parameters,
        "model_bytes": size,
        "added_bytes": {name: peak - before for name, peak in peaks.items()},
        "added_over_model": round((max(peaks.values()) - before) / size, 3),
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ratio", type=float, default=0.55)
    parser.add_argument("--criterion", default="variance")
    parser.add_argument("--compensation", default="mean")
    figures = measure(**vars(parser.parse_args()))
    print(json.dumps(figures, indent=2))
    expected = PAPER_PARAMETERS.get(figures["ratio"])
    wrong = expected is not None and abs(figures["parameters"]["pruned"] - expected) > 0.005e6
    return int(wrong or figures["added_over_model"] > 1)


if __name__ == "__main__":
    sys.exit(main())
