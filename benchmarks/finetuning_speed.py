"""Images per second of DistillationTrainer, with and without a teacher, and of transformers' Trainer.

    python -m benchmarks.finetuning_speed MODEL --ratio 0.45 --batch 8 --steps 6 --rounds 3

Prunes MODEL and trains the pruned model on random images, in turn with ``Trainer``, with ``DistillationTrainer`` on
labels alone, with the teacher's logits cached, and with the teacher. Times are medians over all steps except the first
of each turn; the turns alternate in rounds, so that other load on the machine affects all of them equally.
"""

import argparse
import copy
import json
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_vbp
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.results.versions import versions


class StepTimes(TrainerCallback):
    """Records the time of every step, including queued work of the device."""

    def __init__(self, clock: str) -> None:
        self.times: list[float] = []
        self._clock = {"wall": time.perf_counter, "cpu": time.process_time}[clock]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._started = self._now(args.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock."""
        self.times.append(self._now(args.device) - self._started)

    def _now(self, device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return self._clock()


def images(number: int, size: int, classes: int) -> list[dict[str, Any]]:
    """Return random images with labels."""
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.randn(3, size, size, generator=generator), "labels": index % classes}
        for index in range(number)
    ]


def main() -> None:
    """Measure, and print the figures as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ratio", type=float, default=0.45)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu suits a shared machine")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    dense = hf_vbp.from_pretrained(options.model).eval()
    data = images(options.batch * options.steps, dense.config.image_size, dense.config.num_labels)
    calibration = torch.utils.data.DataLoader(data[:16], batch_size=8)
    pruned = hf_vbp.prune(dense, calibration, hf_vbp.VBPConfig(ratio=options.ratio)).model
    with tempfile.TemporaryDirectory() as folder:
        times = measure(turns(dense, pruned, data, folder, options), options.rounds)
    rates = {name: options.batch / float(np.median(values)) for name, values in times.items()}
    print("| | images per second | against Trainer |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.1f} | {rate / rates['Trainer']:.2f} |")
    print(f"per second of {'processor time' if options.clock == 'cpu' else 'time'}, median step")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(json.dumps({"device": device, "batch": options.batch, "rates": rates, "versions": versions()}))


def turns(dense: Any, pruned: Any, data: Any, folder: str, options: Any) -> dict[str, Callable[[], list[float]]]:
    """Return the training runs to time, by name; each call returns the times of its steps."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": options.batch,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "bf16": options.bf16,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }

    def plain() -> list[float]:
        args = TrainingArguments(folder, **settings)
        return run(Trainer(copy.deepcopy(pruned), args, train_dataset=data), options.clock)

    def ours(teacher: Any, **changes: Any) -> list[float]:
        args = DistillationArguments(folder, **settings, **changes)
        trainer = DistillationTrainer(copy.deepcopy(pruned), args, teacher=teacher, train_dataset=data)
        return run(trainer, options.clock)

    return {
        "Trainer": plain,
        "DistillationTrainer, labels alone": lambda: ours(None),
        "DistillationTrainer, teacher's logits cached": lambda: ours(dense, cache_teacher_logits=True),
        "DistillationTrainer, teacher": lambda: ours(dense),
    }


def run(trainer: Any, clock_name: str) -> list[float]:
    """Train, and return the times of all steps except the first."""
    clock = StepTimes(clock_name)
    trainer.add_callback(clock)
    trainer.train()
    return clock.times[1:]


def measure(turns: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[float]]:
    """Return the times of the steps of every turn, over all rounds."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            times[name] += turn()
    return times


if __name__ == "__main__":
    main()
