"""Memory that pruning a model of 1.1 billion parameters in place takes, above that of the model.

    python -m benchmarks.large_model [--method paper] [--layers 40] [--hidden 1536] [--image-size 518]
    python -m benchmarks.large_model --method default --max-bytes 2500000000

Makes a DINOv2 of the shape of DINOv2-giant (SwiGLU, heads of 64, a classifier of 1,000 labels) with random weights in
bfloat16, gathers statistics of a few random images, plans and prunes in place, and prints the peak of the resident set
of each step, above that of the model, as a share of the size of the model.

- ``paper``: variances and means. Exits with 1 if a step takes more than 0.3 times the model.
- ``default``: covariances, in groups of sites whose sums fit into ``--max-bytes``. They are stored in ``--folder``,
  and later steps read them site by site.

Needs Linux. The figures of docs/statistics.md are those of this script.
"""

import argparse
import ctypes
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Dinov2Config, Dinov2ForImageClassification

import hf_vbp
from benchmarks.memory import peak_during, resident_bytes
from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import requirements_for, statistics_bytes

BOUND = 0.3
ResultT = TypeVar("ResultT")


def build(layers: int, hidden: int, image_size: int) -> Any:
    """Return the model. It is made on the meta device, so that its weights are allocated once, in bfloat16."""
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        use_swiglu_ffn=True,
        image_size=image_size,
        patch_size=14,
        num_labels=1000,
    )
    with torch.device("meta"):
        model: Any = Dinov2ForImageClassification(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(0.5)
    return model


def release_memory() -> None:
    """Return freed memory to the system, so that what one step freed does not count for the next."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class Peaks:
    """The peak of each step above the resident set of the model, as a share of the size of the model."""

    def __init__(self, model_bytes: int) -> None:
        release_memory()
        self.size, self.before = model_bytes, resident_bytes()
        self.bytes: dict[str, int] = {}

    @property
    def shares(self) -> dict[str, float]:
        """The peaks as shares of the size of the model."""
        return {step: round(added / self.size, 3) for step, added in self.bytes.items()}

    def during(self, step: str, work: Callable[[], ResultT]) -> ResultT:
        """Run a step."""
        start = time.perf_counter()
        result, peak = peak_during(work)
        self.bytes[step] = peak - self.before
        print(f"{step}: {self.shares[step]} of the model, {time.perf_counter() - start:.0f} s", file=sys.stderr)
        release_memory()
        return result


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of one method."""
    torch.manual_seed(0)
    model = build(options.layers, options.hidden, options.image_size)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    dense = model.num_parameters()
    images = [{"pixel_values": torch.randn(1, 3, 224, 224)} for _ in range(options.images)]
    paper = options.method == "paper"
    config = hf_vbp.VBPConfig.preset("paper", ratio=options.ratio) if paper else hf_vbp.VBPConfig(ratio=options.ratio)
    peaks = Peaks(size)
    prepared = peaks.during("check", lambda: prepare(model))
    sums = statistics_bytes(prepared.sites, requirements_for(prepared, config))
    store = None if paper else folder / "statistics"
    limit = options.max_bytes
    statistics = peaks.during(
        "statistics",
        lambda: hf_vbp.collect_statistics(prepared, images, config, max_bytes=limit, store=store),
    )
    statistics = peaks.during(
        "elimination",
        lambda: hf_vbp.precompute_scores(prepared, statistics, config, device=options.device),
    )
    peaks.during("prune", lambda: hf_vbp.prune(prepared, None, config, statistics=statistics, inplace=True))
    return {
        "method": options.method,
        "ratio": options.ratio,
        "image_size": options.image_size,
        "images": options.images,
        "parameters": {"dense": dense, "pruned": model.num_parameters()},
        "model_bytes": size,
        "sums_bytes": sums,
        "max_bytes": limit,
        "added_bytes": peaks.bytes,
        "added_over_model": peaks.shares,
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", choices=["paper", "default"], default="paper")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--max-bytes", type=int)
    parser.add_argument("--device", default="cpu", help="of the elimination")
    parser.add_argument("--folder", type=Path, help="place of the stored statistics; by default the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measure(options, Path(folder))
    print(json.dumps(figures, indent=2))
    return int(options.method == "paper" and max(figures["added_over_model"].values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
