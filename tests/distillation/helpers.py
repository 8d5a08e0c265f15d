"""A tiny pruned student, its dense teacher, images, and training written out by hand."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.modeling.config_record import write_widths
from hf_vbp.modeling.modeling_hf_vbp import resize
from tests.conftest import TINY, make_model

WIDTHS = [11, 24, 37]
DENSE = [TINY["intermediate_size"]] * TINY["num_hidden_layers"]


class Images(Dataset[dict[str, Any]]):
    """Random images with labels, the same whenever they are asked for."""

    def __init__(self, number: int = 32, *, seed: int = 3, labelled: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pixel_values = torch.randn(number, 3, 32, 32, generator=generator)
        self.labels = torch.randint(0, 5, (number,), generator=generator)
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = {"pixel_values": self.pixel_values[index]}
        return {**sample, "labels": int(self.labels[index])} if self.labelled else sample


def make_student(kind: str = "vit", widths: list[int] = WIDTHS) -> Any:
    """Return a pruned tiny model, of other weights than the teacher."""
    model = make_model(kind, seed=5)
    assert resize(model, widths)
    write_widths(model.config, widths, dense_widths=DENSE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


def make_teacher(kind: str = "vit") -> Any:
    """Return a dense tiny model."""
    return make_model(kind, seed=1)


def arguments(folder: Path | str, **changes: Any) -> DistillationArguments:
    """Return settings for a short run on the CPU without noise on the console."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        # The bias of a key has no gradient but rounding, which a small epsilon would blow up to whole steps.
        "adam_epsilon": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    return DistillationArguments(**{**settings, **changes})


def make_trainer(folder: Path | str, *, kind: str = "vit", **changes: Any) -> DistillationTrainer:
    """Return a trainer of a tiny pruned student with its teacher."""
    options = {
        "teacher": changes.pop("teacher", make_teacher(kind)),
        "train_dataset": changes.pop("train_dataset", Images()),
        "eval_dataset": changes.pop("eval_dataset", None),
    }
    model = changes.pop("model", None) or make_student(kind)
    return DistillationTrainer(model, arguments(folder, **changes), **options)


def parameters_of(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_parameters(actual: Any, expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Assert that every parameter of a model is as expected, bit for bit by default."""
    found = parameters_of(actual)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        difference = float((value - expected[name]).abs().max()) if value.numel() else 0.0
        assert difference <= tolerance, (name, difference)


def log_of(trainer: Any, key: str) -> list[float]:
    """Return every logged value of a key."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def loss_by_hand(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, weight: float, temperature: float
) -> torch.Tensor:
    """Return the loss from its definition, one image and one class at a time in plain sums."""
    total = torch.zeros((), dtype=student.dtype)
    for row, label in enumerate(labels.tolist()):
        log_normaliser = torch.log(torch.exp(student[row]).sum())
        hard = log_normaliser - student[row, label]
        p = torch.exp(teacher[row] / temperature)
        p = p / p.sum()
        q = torch.exp(student[row] / temperature)
        q = q / q.sum()
        soft = sum(p[k] * (torch.log(p[k]) - torch.log(q[k])) for k in range(len(p)))
        total = total + weight * hard + (1 - weight) * temperature**2 * soft
    return total / len(labels)


def cosine(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a cosine schedule without warmup."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
