"""Accuracy of a classifier with merged tokens, without training.

    python -m benchmarks.merging_accuracy MODEL IMAGES [--r 8 13 15 18 20] [--limit 500]

``MODEL`` is a Hub id or a folder, ``IMAGES`` a folder of labelled images or a data set of the Hub. Prints for each
``r``, the number of tokens merged before each block but the first: top-1, the KL divergence from the model without
merging in nats, and the share of its MACs.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForImageClassification

import hf_vbp
from hf_vbp.costs.counts import count_macs


@torch.inference_mode()
def logits_of(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    """Return the logits of all images, ``(images, classes)``."""
    return torch.cat([model(pixel_values=batch["pixel_values"]).logits.float() for batch in batches])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Accuracy of a classifier with merged tokens.")
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--r", type=int, nargs="+", default=[8, 13, 15, 18, 20])
    parser.add_argument("--limit", type=int, default=500)
    options = parser.parse_args()
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    images = hf_vbp.load_images(
        options.images, model=model, limit=options.limit, require_labels=True, purpose="evaluation"
    )
    batches = list(images.loader)
    labels = torch.cat([batch["labels"] for batch in batches])
    dense, macs = logits_of(model, batches), count_macs(model)
    print("| r | top-1 | KL | MACs |")
    print("| ---: | ---: | ---: | ---: |")
    for r in (0, *options.r):
        hf_vbp.merge_tokens(model, r)
        found = logits_of(model, batches)
        top1 = 100 * (found.argmax(-1) == labels).double().mean().item()
        kl = torch.nn.functional.kl_div(found.log_softmax(-1), dense.softmax(-1), reduction="batchmean").item()
        print(f"| {r} | {top1:.1f} | {kl:.4f} | {count_macs(model) / macs:.3f} |", flush=True)


if __name__ == "__main__":
    main()
