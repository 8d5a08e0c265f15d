"""Time of matching and averaging tokens, as a share of the time of a transformer block.

    python -m benchmarks.token_merging [--width 768] [--heads 12] [--tokens 197] [--r 15] [--batch 1 8] [--threads 1]

For each batch size, a block of a ViT, the same block preceded by merging, and the parts of the merging run in turns on
random tokens. Printed are medians in milliseconds and shares of the median of the block. `share of a block` is that of
everything merging adds before a block: the mean of the keys, matching, averaging and the mask of the attention.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_vbp.modeling.modeling_hf_vbp import average_tokens, match_tokens


def median_times(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each job in milliseconds; the jobs run in turns, after one run to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if repeat:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


@torch.inference_mode()
def measure(options: argparse.Namespace, batch: int) -> dict[str, float]:
    """Return the times of a block and of the parts of merging, by name."""
    config = ViTConfig(
        hidden_size=options.width,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.width,
        num_hidden_layers=1,
        attn_implementation="sdpa",
    )
    block = ViTForImageClassification(config).eval().vit.layers[0]
    remaining = options.tokens - options.r
    hidden = torch.randn(batch, options.tokens, options.width)
    sizes = torch.randint(1, 4, (batch, options.tokens)).float()
    keys = block.attention.k_proj(hidden)

    def mean_keys() -> torch.Tensor:
        return keys.reshape(batch, options.tokens, options.heads, -1).float().mean(2)

    def mask(found: torch.Tensor) -> torch.Tensor:
        return found.log()[:, None, None]

    mean, positions = mean_keys(), match_tokens(mean_keys(), options.r, 1)

    def merging() -> torch.Tensor:
        position = match_tokens(mean_keys(), options.r, 1)
        merged, found = average_tokens(hidden, sizes, position, remaining)
        return mask(found) + merged[0, 0, 0]

    jobs: dict[str, Callable[[], Any]] = {
        "block": lambda: block(hidden),
        "mean of the keys": mean_keys,
        "matching": lambda: match_tokens(mean, options.r, 1),
        "averaging": lambda: average_tokens(hidden, sizes, positions, remaining),
        "merging": merging,
        "block with a mask": lambda: block(hidden, mask(sizes)),
    }
    return median_times(jobs, options.repeats)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Time of token merging, as a share of the time of a block.")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--r", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("| batch | part | ms | share of a block |")
    print("| ---: | --- | ---: | ---: |")
    for batch in options.batch:
        times = measure(options, batch)
        for name, value in times.items():
            print(f"| {batch} | {name} | {value:.2f} | {100 * value / times['block']:.1f} % |")


if __name__ == "__main__":
    main()
