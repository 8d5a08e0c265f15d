"""A tiny pruned checkpoint with its dense model, images in folders, and recipes for them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hf_vbp
from hf_vbp.data.processing import load_processor
from hf_vbp.results.base_model import describe_base_model
from tests.conftest import make_model

CLASSES = ("ash", "birch", "cedar", "elm", "fir")


def make_images(folder: Path, *, each: int = 4, seed: int = 0) -> Path:
    """Write images of 40 x 36 pixels, one folder for each class, whose color depends on the class."""
    draws = np.random.default_rng(seed)
    colors = np.random.default_rng(9).integers(0, 255, size=(len(CLASSES), 3))
    for color, name in zip(colors, CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = draws.integers(-60, 60, size=(36, 40, 3))
            pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def make_dense(folder: Path, *, seed: int = 1, **changes: Any) -> Path:
    """Save a dense model with its processor."""
    from transformers import ViTImageProcessor

    labels = dict(enumerate(CLASSES))
    model = make_model(
        "vit", seed=seed, **{"id2label": labels, "label2id": {n: i for i, n in labels.items()}, **changes}
    )
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_pruned(folder: Path, dense: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Prune a dense checkpoint by half and save it with its results; not verified in a fresh process, to save time."""
    model = hf_vbp.from_pretrained(dense, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [{"pixel_values": torch.randn(8, 3, 32, 32, generator=generator).to(dtype)}]
    result = hf_vbp.prune(model, batches, hf_vbp.VBPConfig(ratio=0.5))
    result.results["base_model"] = describe_base_model(model, str(dense))
    hf_vbp.save_checkpoint(result, folder, processor=load_processor(dense), verify=False)
    return folder


def recipe_for(work: Path, **training: Any) -> dict[str, Any]:
    """Return the fields of a short recipe in a folder that :func:`make_work` filled."""
    return {
        "model": str(work / "pruned"),
        "teacher": str(work / "dense"),
        "data": {
            "train": {"source": str(work / "train")},
            "evaluation": {"source": str(work / "test")},
            "augmentation": "plain",
        },
        "training": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 10,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **training,
        },
        "output": str(work / "out"),
    }


def make_work(folder: Path) -> Path:
    """Fill a folder with ``dense``, ``pruned``, ``train`` and ``test``."""
    make_dense(folder / "dense")
    make_pruned(folder / "pruned", folder / "dense")
    make_images(folder / "train")
    make_images(folder / "test", each=2, seed=1)
    return folder


class Said:
    """A reporter that keeps the updates it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stages: list[str] = []

    def warn(self, text: str) -> None:
        self.say(text)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stage(self, title: str, total: int | None = None) -> Any:
        from contextlib import nullcontext

        self.stages.append(title)
        return nullcontext(lambda done, total=None: None)
