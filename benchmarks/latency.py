"""Speed-up of each lever over the dense model, beside the share of MACs: ViT shapes with random weights.

    python -m benchmarks.latency --shapes vit-b --batches 1 8 --dtypes float32 --threads 1 --output DIR
    python -m benchmarks.latency --shapes vit-b --batches 8 --threads 1 --profile --output DIR

All models of a row are measured in turns in one run (:mod:`hf_vbp.costs.latency`). The widths are rounded to the
multiple that is fastest for the shape, dtype and threads (``--round-to auto``), or to a given one; 1 leaves them
as they come. ``--compile`` measures the models compiled by ``torch.compile`` as well. Writes ``latency.md``; a row
that is too noisy is left out and named. ``--profile`` writes ``profile.md`` instead, the time of each group of
operators by the profiler of torch in float32 on the CPU, beside the share of MACs.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import ViTConfig, ViTForImageClassification

from hf_vbp.adapters.prepared import prepare
from hf_vbp.costs.counts import count_macs
from hf_vbp.costs.latency import LatencyOptions, cpu_threads, measure_latency, with_widths
from hf_vbp.costs.width_multiple import fastest_multiple
from hf_vbp.errors import LatencyError
from hf_vbp.modeling.modeling_hf_vbp import TokenMerging
from hf_vbp.token_merging.merge_tokens import merge_tokens

SHAPES = {"vit-s": (384, 6), "vit-b": (768, 12)}
MERGING = "merging of tokens"
# Words in the names of operators to their group; the first that fits counts.
GROUPS = {
    "attention": "attention",
    "mm": "linear layers",
    "linear": "linear layers",
    "gelu": "activation",
    "norm": "normalization",
    "conv": "patch embedding",
}


def levers(shape: str, options: argparse.Namespace, dtype: str = "float32") -> tuple[dict[str, Any], int]:
    """Return the dense model, and those of each lever, with random weights, and the multiple of the widths.

    Args:
        shape: A key of ``SHAPES``.
        options: The share of neurons that is removed of each MLP, the tokens merged before each block but the first,
            the multiple of the widths or ``"auto"``, and the device.
        dtype: The dtype that the multiple is measured in.
    """
    hidden, heads = SHAPES[shape]
    config = ViTConfig(hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden, num_labels=1000)
    dense = ViTForImageClassification(config).eval().to(options.device)
    prepared = prepare(dense)
    if options.round_to == "auto":
        found = fastest_multiple(prepare(on_device(dense, dtype, False, options.device)))
        multiple = int(found["multiple"])
    else:
        multiple = int(options.round_to)
    widths = [round(width * (1 - options.removed) / multiple) * multiple for width in prepared.widths]
    print(f"{shape}: MLPs of {widths[0]} of {prepared.widths[0]} neurons, a multiple of {multiple}", flush=True)
    models = {"dense": dense, "pruned": with_widths(prepared, widths)}
    for name, given in (("merged", prepared.widths), ("both", widths)):
        models[name] = with_widths(prepared, given)
        merge_tokens(models[name], options.merged)
    return models, multiple


def on_device(model: Any, dtype: str, compiled: bool, device: str) -> Any:
    """Return a copy of a model on a device and in a dtype, compiled on request."""
    copied = copy.deepcopy(model).to(device, getattr(torch, dtype))
    if compiled:
        copied.compile()
    return copied


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the cells of one row for each shape, batch, dtype and number of threads."""
    for shape in options.shapes:
        for dtype in options.dtypes:
            for threads in options.threads:
                with cpu_threads(threads):
                    models, multiple = levers(shape, options, dtype)
                macs = {name: count_macs(model) for name, model in models.items()}
                shares = [f"{macs['dense'] / macs[name]:.2f}" for name in list(models)[1:]]
                yield [shape, "", dtype, str(threads), str(multiple), "MACs", *shares]
                for compiled in (False, True) if options.compile else (False,):
                    chosen = {
                        name: on_device(model, dtype, compiled, options.device) for name, model in models.items()
                    }
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
                        yield [shape, str(batch), name, str(threads), str(multiple), *times]


def profiled(model: Any, batch: int, passes: int = 3) -> Counter[str]:
    """Return the milliseconds of one forward pass by group of operators."""
    pixels = torch.randn(batch, 3, 224, 224)
    before = TokenMerging.before_block

    def named(self: Any, *args: Any) -> Any:
        with record_function(MERGING):
            return before(self, *args)

    with torch.inference_mode():
        model(pixel_values=pixels)
        TokenMerging.before_block = named  # type: ignore[method-assign]
        try:
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                for _ in range(passes):
                    model(pixel_values=pixels)
        finally:
            TokenMerging.before_block = before  # type: ignore[method-assign]
    times: Counter[str] = Counter()
    for event in profiler.events() or ():
        times[group_of(event)] += event.self_cpu_time_total / 1e3 / passes
    return times


def group_of(event: Any) -> str:
    """Return the group of an operator: merging for everything inside it, otherwise that of its name."""
    outer, name = event, event.name
    while outer is not None:
        if outer.name == MERGING:
            return MERGING
        if outer.name == "aten::linear":
            # Copies of the bias and transposes included.
            name = outer.name
        outer = outer.cpu_parent
    return next((group for word, group in GROUPS.items() if word in name), "everything else")


def profile_rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the cells of one row for each shape, batch and group of operators."""
    for shape in options.shapes:
        models, _ = levers(shape, options)
        macs = {name: count_macs(model) for name, model in models.items()}
        for batch in options.batches:
            with cpu_threads(options.threads[0]):
                times = {name: profiled(model, batch) for name, model in models.items()}
            totals = {name: sum(found.values()) for name, found in times.items()}
            groups = dict.fromkeys(group for found in times.values() for group in found)
            for group in sorted(groups, key=lambda group: -times["both"][group]):
                yield [shape, str(batch), group, *(f"{times[name][group]:.1f}" for name in models)]
            yield [shape, str(batch), "total", *(f"{total:.1f}" for total in totals.values())]
            yield [shape, str(batch), "speed-up", *(f"{totals['dense'] / total:.2f}" for total in totals.values())]
            yield [shape, str(batch), "speed-up in MACs", *(f"{macs['dense'] / own:.2f}" for own in macs.values())]


def main() -> None:
    """Read the command line and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--removed", type=float, default=0.2, help="share of the neurons of each MLP")
    parser.add_argument("--merged", type=int, default=15, help="tokens merged before each block but the first")
    parser.add_argument("--precision", type=float, default=0.03)
    parser.add_argument("--seconds", type=float, default=300, help="longest time of one measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--round-to", default="auto", help="multiple of the widths, or auto")
    parser.add_argument("--profile", action="store_true", help="time of each group of operators, in milliseconds")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if options.profile and options.device != "cpu":
        parser.error("--profile counts the time of the CPU: leave out --device")
    first = ["shape", "batch", "operators"] if options.profile else ["shape", "batch", "dtype", "threads", "multiple"]
    header = [*first, "dense", "pruned", "merged", "both"]
    lines = [header, ["---"] * len(header)]
    options.output.mkdir(parents=True, exist_ok=True)
    for cells in profile_rows(options) if options.profile else rows(options):
        lines.append(cells)
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
        name = "profile.md" if options.profile else "latency.md"
        (options.output / name).write_text(table, encoding="utf-8")
        print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
