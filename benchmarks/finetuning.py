"""Accuracy of a pruned model in fine-tuning, epoch by epoch, with and without its teacher.

    OMP_NUM_THREADS=1 python -m benchmarks.finetuning MODEL TRAIN TEST --output recovery.json

Prunes MODEL at 50 % (criterion variance, compensation mean, statistics from TRAIN) and trains, for each seed,

- ``distilled``: the pruned model against MODEL and the labels;
- ``labels only``: the pruned model on the labels, without a teacher;
- ``unpruned``: MODEL itself, on the labels, for as many epochs,

and evaluates on TEST after every epoch. ``--arms gradual`` prunes half of the ratio, trains one epoch, prunes the rest
from new statistics, and trains the other epochs, all against MODEL. ``--hold-out N`` evaluates on N images of TRAIN
that are not trained on; the settings of recipes/vit-cifar10 were chosen in this way. ``--table FILE`` prints the table
of an earlier run.
"""

import argparse
import copy
import json
import logging
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

import hf_vbp
from hf_vbp.data.augmentation import Augmentation
from hf_vbp.data.loading import load_images
from hf_vbp.data.processing import load_processor
from hf_vbp.data.training_images import AugmentedImages
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.trainer import DistillationTrainer

ARMS = ("distilled", "labels only", "unpruned")
GRADUAL = "gradual"


@dataclass(frozen=True)
class Settings:
    """One way to train."""

    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 32
    hard_label_weight: float = 0.5
    temperature: float = 2.0
    augmentation: str = "plain"
    weight_decay: float = 0.01


class Bench:
    """Model, pruned model and images, loaded once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.processor = load_processor(options.model)
        self.dense = hf_vbp.from_pretrained(options.model).eval()
        self.train = self._stored(options.train, options.cache)
        self.test = self._stored(options.test, options.cache)
        if options.hold_out:
            order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0)).tolist()
            self.test = Subset(self.train, order[: options.hold_out])
            self.train = Subset(self.train, order[options.hold_out :])
        self._options = options
        self.pruned = self._prune(self.dense, options.ratio)

    def _prune(self, model: Any, ratio: float) -> Any:
        config = hf_vbp.VBPConfig(
            ratio=ratio, criterion=self._options.criterion, compensation=self._options.compensation
        )
        batches = torch.utils.data.DataLoader(self.train, batch_size=64)
        return hf_vbp.prune(model.eval(), batches, config).model

    def _stored(self, folder: Path, cache: Path | None) -> list[dict[str, Any]]:
        kept = None if cache is None else cache / f"{folder.name}.pt"
        if kept is not None and kept.is_file():
            stored = torch.load(kept, weights_only=True)
        else:
            opened = load_images(
                str(folder),
                self.processor,
                id2label=self.dense.config.id2label,
                require_labels=True,
                purpose="evaluation",
            )
            dataset: Any = opened.loader.dataset
            rows = [dataset[index] for index in range(len(dataset))]
            stored = {
                "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
                "labels": torch.tensor([row["labels"] for row in rows]),
            }
            if kept is not None:
                torch.save(stored, kept)
        pairs = zip(stored["pixel_values"], stored["labels"].tolist(), strict=True)
        return [{"pixel_values": pixels, "labels": label} for pixels, label in pairs]

    def run(self, arm: str, settings: Settings, seed: int, folder: str) -> list[float]:
        """Train one arm; return top-1 before and after each epoch."""
        if arm != GRADUAL:
            model = copy.deepcopy(self.dense if arm == "unpruned" else self.pruned)
            return self._train(model, arm, settings, seed, folder)
        half = self._options.ratio / 2
        model = self._prune(self.dense, half)
        first = self._train(model, arm, replace(settings, epochs=1), seed, folder)
        model = self._prune(model, half / (1 - half))
        rest = self._train(model, arm, replace(settings, epochs=settings.epochs - 1), seed + 1000, folder)
        return first + rest

    def _train(self, model: Any, arm: str, settings: Settings, seed: int, folder: str) -> list[float]:
        augmentation = Augmentation(settings.augmentation, self.processor, seed=seed)
        args = DistillationArguments(
            folder,
            use_cpu=True,
            seed=seed,
            data_seed=seed,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=250,
            hard_label_weight=settings.hard_label_weight,
            temperature=settings.temperature,
            eval_strategy="epoch",
            eval_on_start=True,
            save_strategy="no",
            logging_strategy="epoch",
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
        )
        trainer = DistillationTrainer(
            model,
            args,
            teacher=self.dense if arm in ("distilled", GRADUAL) else None,
            train_dataset=AugmentedImages(self.train, augmentation),
            eval_dataset=self.test,
        )
        trainer.train()
        return [entry["eval_top1"] for entry in trainer.state.log_history if "eval_top1" in entry]


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table: mean and half of the range over the seeds, in percent."""
    rows = [f"| epoch | {' | '.join(ARMS)} |", f"|---|{'---|' * len(ARMS)}"]
    epochs = len(next(iter(results["runs"][ARMS[0]].values())))
    for epoch in range(epochs):
        cells = []
        for arm in ARMS:
            values = [100 * run[epoch] for run in results["runs"][arm].values()]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if epoch else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        rows.append(f"| {epoch or 'before training'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("train", type=Path, nargs="?")
    parser.add_argument("test", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, default=Path("recovery.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=(*ARMS, GRADUAL))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--criterion", default="variance")
    parser.add_argument("--compensation", default="mean")
    parser.add_argument("--hold-out", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder for decoded images, which later calls reuse")
    parser.add_argument("--most", type=int, help="train at most this many, then stop; the next call continues")
    parser.add_argument("--table", type=Path, help="only print the table of an earlier run")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    logging.disable(logging.WARNING)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    pruning = {name: getattr(options, name) for name in ("ratio", "criterion", "compensation")}
    results: dict[str, Any] = {"settings": asdict(settings), "pruning": pruning, "runs": {}, "seconds": {}}
    if options.output.is_file():
        results = json.loads(options.output.read_text(encoding="utf-8"))
        if results["settings"] != asdict(settings) or results["pruning"] != pruning:
            parser.error(f"{options.output} has other settings; choose another --output")
    wanted = [(seed, arm) for seed in options.seeds for arm in options.arms]
    left = [(seed, arm) for seed, arm in wanted if str(seed) not in results["runs"].get(arm, {})]
    bench = Bench(options) if left else None
    for seed, arm in left[: options.most]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results["runs"].setdefault(arm, {})[str(seed)] = bench.run(arm, settings, seed, folder)
        results["seconds"].setdefault(arm, {})[str(seed)] = round(time.perf_counter() - started, 1)
        options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if len(left) <= (options.most or len(left)) and set(options.arms) == set(ARMS):
        print(table(results))


if __name__ == "__main__":
    main()
