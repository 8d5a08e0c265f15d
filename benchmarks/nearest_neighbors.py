"""A bare backbone before and after pruning, by k nearest neighbors of its features.

    python -m benchmarks.nearest_neighbors MODEL BANK QUERIES --output DIR [--bank-limit 6000] [--query-limit 2000]

``MODEL`` is a ViT or DeiT; it is loaded without its head, so that its output is the class token after the last norm.
``BANK`` and ``QUERIES`` are folders with one folder of images for each class. The class of a query is that with the
largest sum of ``exp(cosine / 0.07)`` over its 20 nearest images of the bank. The bank is embedded by the same model
as the queries.

One pass over the first images of the bank gives the statistics of both methods: ``neighbors`` is the default, whose
output metric is that of the distance of features to those of other images; ``identity`` weighs all directions of the
outputs of a site, and all tokens, equally. Prints a Markdown table: top-1 with Wilson's interval, the paired
difference to the dense model with its 95 % interval, the share of the queries with the same class as by the dense
model, and the mean cosine distance of their features. The dense features are kept in DIR.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ViTImageProcessor, ViTModel

from benchmarks.accuracy import wilson
from benchmarks.few_images import paired
from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.workflow.prune import prune

METHODS = {
    "neighbors": VBPConfig(),
    "identity": VBPConfig(criterion_options={"metric": "identity"}, compensation_options={"token_weights": "none"}),
}
BATCH = 50
TEMPERATURE = 0.07


def images_of(folder: Path, limit: int | None) -> tuple[list[Path], Tensor]:
    """Return files and classes ``(images,)``, in a fixed random order; classes are numbered by their names."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pairs = [(path, number) for number, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    return [pairs[index][0] for index in order], torch.tensor([pairs[index][1] for index in order])


def batches_of(files: Sequence[Path], processor: ViTImageProcessor, device: torch.device) -> Any:
    """Yield batches of images as the model takes them, on its device."""
    for start in range(0, len(files), BATCH):
        opened = [Image.open(path).convert("RGB") for path in files[start : start + BATCH]]
        yield {"pixel_values": processor(opened, return_tensors="pt")["pixel_values"].to(device)}
        print(f"{start + len(opened)} of {len(files)} images", file=sys.stderr, flush=True)


@torch.inference_mode()
def embed(model: ViTModel, files: Sequence[Path], processor: ViTImageProcessor) -> Tensor:
    """Return the class tokens, ``(images, dim)``."""
    batches = batches_of(files, processor, model.device)
    return torch.cat([model(**batch).last_hidden_state[:, 0].cpu() for batch in batches])


def nearest_classes(bank: Tensor, classes: Tensor, queries: Tensor, neighbors: int) -> Tensor:
    """Return the class of each query by its nearest neighbors in the bank.

    Args:
        bank: ``(images, dim)``.
        classes: ``(images,)`` int64.
        queries: ``(queries, dim)``.
        neighbors: Number of neighbors that vote.
    """
    cosines = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(bank, dim=1).T
    nearest, places = cosines.topk(neighbors)
    votes = torch.zeros(len(queries), int(classes.max()) + 1)
    return votes.scatter_add_(1, classes[places], (nearest / TEMPERATURE).exp()).argmax(1)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of the dense and the pruned models."""
    processor = ViTImageProcessor.from_pretrained(options.model)
    model = ViTModel.from_pretrained(options.model, add_pooling_layer=False).eval()
    model = model.to(options.device)
    bank, bank_classes = images_of(options.bank, options.bank_limit)
    queries, classes = images_of(options.queries, options.query_limit)
    stored = options.output / f"dense-{len(bank)}-{len(queries)}.pt"
    if not stored.is_file():
        torch.save((embed(model, bank, processor), embed(model, queries, processor)), stored)
    dense_bank, dense = torch.load(stored)
    found = nearest_classes(dense_bank, bank_classes, dense, options.neighbors)
    right = (found == classes).double()
    rows = [{"method": "dense", "top1": float(right.mean()), "interval": wilson(int(right.sum()), len(right))}]
    prepared = prepare(model)
    calibration = list(batches_of(bank[: options.calibration], processor, model.device))
    statistics = collect_statistics(prepared, calibration, VBPConfig(), seed=options.seed)
    for name in options.methods:
        pruned = prune(prepared, config=METHODS[name].with_budget(ratio=options.ratio), statistics=statistics).model
        features = embed(pruned, queries, processor)
        chosen = nearest_classes(embed(pruned, bank, processor), bank_classes, features, options.neighbors)
        own = (chosen == classes).double()
        difference, interval = paired(own - right)
        rows.append(
            {
                "method": name,
                "top1": float(own.mean()),
                "interval": wilson(int(own.sum()), len(own)),
                "difference": difference,
                "difference_interval": interval,
                "agreement": float((chosen == found).double().mean()),
                "cosine_distance": float((1 - torch.nn.functional.cosine_similarity(features, dense)).mean()),
            }
        )
        (options.output / "nearest_neighbors.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table."""
    lines = [
        "| metric | k-NN top-1 | difference to the dense model | same class | cosine distance |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        cells = [row["method"], f"{100 * row['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})"]
        if "difference" in row:
            cells += [
                f"{100 * row['difference']:+.1f} ± {100 * row['difference_interval']:.1f}",
                f"{100 * row['agreement']:.1f}",
                f"{row['cosine_distance']:.3f}",
            ]
        lines.append(f"| {' | '.join(cells + [''] * (5 - len(cells)))} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("bank", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bank-limit", type=int, help="images of the bank, by default all")
    parser.add_argument("--query-limit", type=int, help="queries, by default all")
    parser.add_argument("--calibration", type=int, default=500, help="images of the bank for the statistics")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the hidden neurons that is removed")
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="of the output metric")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print the table."""
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    print(table(run(options)))


if __name__ == "__main__":
    main()
