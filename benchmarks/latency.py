"""Speed-up of each lever over the dense model, beside the share of MACs: ViT shapes with random weights.

    python -m benchmarks.latency --shapes vit-b --batches 1 8 --dtypes float32 --threads 1 --output DIR

All models of a row are measured in turns in one run (:mod:`hf_vbp.costs.latency`). ``--compile`` measures the models
compiled by ``torch.compile`` as well. Writes ``latency.md``; a row that is too noisy is left out and named.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.counts import count_macs
from hf_vbp.costs.latency import LatencyOptions, cpu_threads, measure_latency, with_widths
from hf_vbp.errors import LatencyError
from hf_vbp.token_merging.merge_tokens import merge_tokens

SHAPES = {"vit-s": (384, 6), "vit-b": (768, 12)}


def levers(shape: str, removed: float, merged: int, multiple: int) -> dict[str, Any]:
    """Return the dense model, and those of each lever, with random weights and widths of a multiple."""
    hidden, heads = SHAPES[shape]
    config = ViTConfig(hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden, num_labels=1000)
    dense = ViTForImageClassification(config).eval()
    prepared = prepare(dense)
    widths = [multiple * round(width * (1 - removed) / multiple) for width in prepared.widths]
    models = {"dense": dense, "pruned": with_widths(prepared, widths)}
    for name, given in (("merged", prepared.widths), ("both", widths)):
        models[name] = with_widths(prepared, given)
        merge_tokens(models[name], merged)
    return models


def on_device(model: Any, dtype: str, compiled: bool, device: str) -> Any:
    """Return a copy of a model on a device and in a dtype, compiled on request."""
    copied = copy.deepcopy(model).to(device, getattr(torch, dtype))
    if compiled:
        copied.compile()
    return copied


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the cells of one row for each shape, batch, dtype and number of threads."""
    for shape in options.shapes:
        models = levers(shape, options.removed, options.merged, options.round_to)
        macs = {name: count_macs(model) for name, model in models.items()}
        shares = ["MACs", *(f"{macs['dense'] / macs[name]:.2f}" for name in list(models)[1:])]
        yield [shape, "", "", "", *shares]
        for compiled in (False, True) if options.compile else (False,):
            for dtype in options.dtypes:
                chosen = {name: on_device(model, dtype, compiled, options.device) for name, model in models.items()}
                for threads in options.threads:
                    for batch in options.batches:
                        conditions = LatencyOptions(
                            batch=batch, threads=threads, precision=options.precision, seconds=options.seconds
                        )
                        name = f"{dtype}{', compiled' if compiled else ''}"
                        try:
                            with cpu_threads(threads):
                                found = measure_latency(chosen, conditions)
                        except LatencyError as error:
                            print(f"{shape}, batch {batch}, {name}, {threads} threads: {error}")
                            continue
                        times = [f"{found[0]['median_ms']:.1f} ms", *(f"{row['speedup']:.2f}" for row in found[1:])]
                        yield [shape, str(batch), name, str(threads), *times]


def main() -> None:
    """Read the command line and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--removed", type=float, default=0.2, help="share of the neurons of each MLP")
    parser.add_argument("--merged", type=int, default=15, help="tokens merged before each block but the first")
    parser.add_argument("--round-to", type=int, default=1, help="multiple that the widths are rounded to")
    parser.add_argument("--precision", type=float, default=0.03)
    parser.add_argument("--seconds", type=float, default=300, help="longest time of one measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    header = ["shape", "batch", "dtype", "threads", "dense", "pruned", "merged", "both"]
    lines = [header, ["---"] * len(header)]
    options.output.mkdir(parents=True, exist_ok=True)
    for cells in rows(options):
        lines.append(cells)
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
        (options.output / "latency.md").write_text(table, encoding="utf-8")
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
