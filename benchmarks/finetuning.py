"""How much of its accuracy a pruned model gets back, epoch by epoch, with and without its teacher.

    OMP_NUM_THREADS=1 python benchmarks/finetuning.py MODEL TRAIN TEST --output recovery.json

prunes MODEL at 50 % (criterion variance, compensation mean, statistics from TRAIN) and trains, for each seed,

- ``distilled``: the pruned model against MODEL and the labels;
- ``labels only``: the pruned model on the labels, without a teacher;
- ``unpruned``: MODEL itself, on the labels, for as many epochs,

evaluating on TEST after every epoch. ``--hold-out N`` sets N images of TRAIN aside and evaluates on those instead,
which is how the settings of recipes/vit-cifar10 were chosen; ``--table FILE`` prints the table of an earlier run.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

import hf_vbp
from hf_vbp.data import load_images, load_processor
from hf_vbp.data.augmentation import Augmentation
from hf_vbp.distillation import DistillationArguments, DistillationTrainer
from hf_vbp.finetuning.images import AugmentedImages

ARMS = ("distilled", "labels only", "unpruned")


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
    """Model, pruned model and images, read once."""

    def __init__(self, model: Path, train: Path, test: Path, hold_out: int, ratio: float) -> None:
        self.processor = load_processor(model)
        self.dense = hf_vbp.from_pretrained(model).eval()
        self.train = self._stored(train)
        self.test = self._stored(test)
        if hold_out:
            order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0)).tolist()
            self.test = Subset(self.train, order[:hold_out])
            self.train = Subset(self.train, order[hold_out:])
        batches = torch.utils.data.DataLoader(self.train, batch_size=64)
        self.pruned = hf_vbp.prune(self.dense, batches, hf_vbp.VBPConfig(ratio=ratio)).model

    def _stored(self, folder: Path) -> list[dict[str, Any]]:
        opened = load_images(
            str(folder), self.processor, id2label=self.dense.config.id2label, require_labels=True, purpose="evaluation"
        )
        dataset: Any = opened.loader.dataset
        return [dataset[index] for index in range(len(dataset))]

    def run(self, arm: str, settings: Settings, seed: int, folder: str) -> list[float]:
        """Train one arm; return top-1 before and after each epoch."""
        source = self.dense if arm == "unpruned" else self.pruned
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
            copy_of(source),
            args,
            teacher=self.dense if arm == "distilled" else None,
            train_dataset=AugmentedImages(self.train, augmentation),
            eval_dataset=self.test,
        )
        trainer.train()
        return [entry["eval_top1"] for entry in trainer.state.log_history if "eval_top1" in entry]


def copy_of(model: Any) -> Any:
    """Return a copy of a model."""
    import copy

    return copy.deepcopy(model)


def table(results: dict[str, Any]) -> str:
    """Return the Markdown table: mean and spread (the largest less the smallest) over the seeds, in percent."""
    rows = [f"| epoch | {' | '.join(ARMS)} |", f"|---|{'---|' * len(ARMS)}"]
    epochs = len(next(iter(results["runs"].values()))[0])
    for epoch in range(epochs):
        cells = []
        for arm in ARMS:
            values = [100 * run[epoch] for run in results["runs"][arm]]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if epoch else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        rows.append(f"| {epoch or 'before training'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("train", type=Path, nargs="?")
    parser.add_argument("test", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, default=Path("recovery.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--hold-out", type=int, default=0)
    parser.add_argument("--table", type=Path, help="print the table of an earlier run, and nothing else")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    logging.disable(logging.WARNING)
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    bench = Bench(options.model, options.train, options.test, options.hold_out, options.ratio)
    results: dict[str, Any] = {"settings": asdict(settings), "ratio": options.ratio, "seeds": [], "runs": {}}
    results["seconds"] = dict.fromkeys(options.arms, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for arm in options.arms:
                started = time.perf_counter()
                results["runs"].setdefault(arm, []).append(bench.run(arm, settings, seed, folder))
                results["seconds"][arm] += time.perf_counter() - started
                options.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
            results["seeds"].append(seed)
    if set(options.arms) == set(ARMS):
        print(table(results))


if __name__ == "__main__":
    main()
