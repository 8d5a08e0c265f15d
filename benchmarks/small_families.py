"""Accuracy of pruned models of four families, each trained for this purpose: Swin, ConvNeXt, ConvNeXtV2, DINOv2.

    OMP_NUM_THREADS=1 python -m benchmarks.small_families TRAIN TEST --output DIR

``TRAIN`` and ``TEST`` are folders with one folder of images per class, for instance CIFAR-10. Trains a classifier of a
few hundred thousand parameters per family on TRAIN, from random weights and a fixed seed, and stores it in DIR; a
model that is there already is not trained again. Then prunes it at each ratio, without training, by

- ``remove only``: criterion ``variance``, compensation ``none``;
- ``mean``: criterion ``variance``, compensation ``mean`` (``--preset paper``);
- ``default``: ``obs`` with ``linear``,

with statistics of TRAIN, and evaluates on TEST. Prints top-1 with its Wilson interval (95 %) and the agreement with
the unpruned model as tables, and writes all figures to ``small_families.json``.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessor,
)

import hf_vbp

SIDE = 32
METHODS = {
    "remove only": hf_vbp.VBPConfig(criterion="variance", compensation="none"),
    "mean": hf_vbp.VBPConfig.preset("paper"),
    "default": hf_vbp.VBPConfig(),
}


def swin(labels: dict[str, Any]) -> Any:
    """Return a Swin of two stages with two blocks each."""
    config = SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=48, depths=[2, 2], num_heads=[3, 6], window_size=4, **labels
    )
    return SwinForImageClassification(config)


def convnext(labels: dict[str, Any]) -> Any:
    """Return a ConvNeXt of three stages with two blocks each."""
    config = ConvNextConfig(
        image_size=SIDE,
        patch_size=2,
        num_stages=3,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        layer_scale_init_value=0.1,
        **labels,
    )
    return ConvNextForImageClassification(config)


def convnextv2(labels: dict[str, Any]) -> Any:
    """Return the same with the normalization of ConvNeXtV2, which mixes the neurons of an MLP."""
    config = ConvNextV2Config(
        image_size=SIDE, patch_size=2, num_stages=3, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], **labels
    )
    return ConvNextV2ForImageClassification(config)


def dinov2(labels: dict[str, Any]) -> Any:
    """Return a ViT of four blocks with the layer scales of DINOv2."""
    config = Dinov2Config(
        image_size=SIDE, patch_size=4, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, **labels
    )
    return Dinov2ForImageClassification(config)


# Each with the epochs that take some minutes on one core.
FAMILIES: dict[str, tuple[Callable[[dict[str, Any]], Any], int]] = {
    "swin": (swin, 30),
    "convnext": (convnext, 16),
    "convnextv2": (convnextv2, 16),
    "dinov2": (dinov2, 24),
}


def processor() -> Any:
    """Return the image processor of all families."""
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def load(folder: Path, labels: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return all images of a folder, ``(images, 3, 32, 32)`` float32, and their labels."""
    opened = hf_vbp.load_images(
        str(folder), processor(), id2label=labels["id2label"], require_labels=True, purpose="evaluation"
    )
    batches = list(opened.loader)
    return torch.cat([batch["pixel_values"] for batch in batches]), torch.cat([batch["labels"] for batch in batches])


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side, and flip half of them."""
    most = SIDE // 8
    padded = torch.nn.functional.pad(images, (most,) * 4)
    shifts = torch.randint(2 * most + 1, (len(images), 2), generator=generator)
    flips = torch.rand(len(images), generator=generator) < 0.5
    rows, columns = (shifts[:, axis, None] + torch.arange(SIDE) for axis in (0, 1))
    columns = torch.where(flips[:, None], columns.flip(-1), columns)
    chosen = torch.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded.movedim(1, -1)[chosen].movedim(-1, 1)


def train(model: Any, images: Tensor, labels: Tensor, epochs: int, options: argparse.Namespace) -> dict[str, float]:
    """Train a model in place; return the seconds, and those of the processor, which other programs do not lengthen."""
    generator = torch.Generator().manual_seed(options.seed)
    steps = -(-len(images) // options.batch) * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps, pct_start=0.15)
    model.train()
    started, processor = time.perf_counter(), time.process_time()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(options.batch):
            given = augmented(images[chosen], generator).to(options.device)
            logits = model(pixel_values=given).logits
            loss = torch.nn.functional.cross_entropy(logits, labels[chosen].to(options.device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        elapsed = time.perf_counter() - started
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}, {elapsed:.0f} s", file=sys.stderr)
    model.eval()
    seconds = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    return {name: round(value) for name, value in seconds.items()}


def trained(name: str, images: Tensor, targets: Tensor, labels: dict[str, Any], options: argparse.Namespace) -> Any:
    """Return the trained model of a family and the record of its training, from the output folder if it is there."""
    folder = options.output / name
    record = folder / "training.json"
    if not record.is_file():
        torch.manual_seed(options.seed)
        make, epochs = FAMILIES[name]
        model, epochs = make(labels).to(options.device), options.epochs or epochs
        seconds = train(model, images, targets, epochs, options)
        model.save_pretrained(folder)
        processor().save_pretrained(folder)
        settings = {key: getattr(options, key) for key in ("batch", "learning_rate", "seed")}
        found = {"epochs": epochs, **settings, "images": len(images), **seconds}
        record.write_text(json.dumps(found), encoding="utf-8")
    return hf_vbp.from_pretrained(folder).eval(), json.loads(record.read_text(encoding="utf-8"))


def batches(images: Tensor, labels: Tensor | None = None, size: int = 50) -> list[dict[str, Tensor]]:
    """Return batches of images, with labels where they are given."""
    made = [{"pixel_values": part} for part in images.split(size)]
    if labels is not None:
        for batch, part in zip(made, labels.split(size), strict=True):
            batch["labels"] = part
    return made


def top1(row: dict[str, Any]) -> str:
    """Return top-1 with its interval, in percent."""
    low, high = row["top1_interval"]
    return f"{100 * row['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def agreement(row: dict[str, Any]) -> str:
    """Return the share of images for which the unpruned model predicts the same class, in percent."""
    return f"{100 * row.get('agreement', 1.0):.1f}"


def table(results: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    """Return a Markdown table of all families."""
    lines = [f"| family | neurons removed | {' | '.join(METHODS)} |", f"|---|---|{'---|' * len(METHODS)}"]
    for name, found in results.items():
        dense, *pruned = found["rows"]
        lines.append(f"| {name} | 0 % | {' | '.join([cell(dense)] * len(METHODS))} |")
        for ratio in dict.fromkeys(row["ratio"] for row in pruned):
            # In the order of the methods, as the sweep was asked for.
            cells = [cell(row) for row in pruned if row["ratio"] == ratio]
            lines.append(f"| | {100 * ratio:g} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained models and the figures")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--epochs", type=int, help="by default those of the family")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--calibration", type=int, default=1000, help="images of TRAIN for the statistics")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="of the training")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, prune and evaluate all families; write the figures after each."""
    options = parse(arguments)
    logging.disable(logging.WARNING)
    options.output.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in options.train.iterdir() if path.is_dir())
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    images, targets = load(options.train, labels)
    held_out = batches(*load(options.test, labels))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(options.seed))
    calibration = batches(images[order[: options.calibration]])
    results: dict[str, Any] = {}
    for name in options.families:
        model, record = trained(name, images, targets, labels, options)
        started = time.perf_counter()
        rows = hf_vbp.sweep(model, calibration, list(METHODS.values()), ratios=options.ratios, eval_data=held_out)
        seconds = round(time.perf_counter() - started)
        results[name] = {"training": record, "pruning_seconds": seconds, "rows": rows}
        (options.output / "small_families.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results, top1), table(results, agreement), sep="\n\n")
    for name, found in results.items():
        training, parameters = found["training"], found["rows"][0]["parameters"]
        took = f"{training['processor_seconds']} s of the processor ({training['seconds']} s)"
        print(f"{name}: {parameters} parameters, {training['epochs']} epochs in {took}")


if __name__ == "__main__":
    main()
