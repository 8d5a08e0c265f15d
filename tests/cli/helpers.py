"""Runs the command line in this process, and makes small checkpoints and folders for it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import make_model

NAMES = ("ant", "bee", "cat", "dog", "eel")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def run(
    arguments: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int = 200
) -> Ran:
    """Run ``hf-vbp`` with arguments, as the installed script does."""
    from hf_vbp.cli.app import main

    monkeypatch.setattr(sys, "argv", ["hf-vbp", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", str(columns))
    code = 0
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0
    captured = capfd.readouterr()
    return Ran(code, captured.out, captured.err)


def save_tiny(folder: Path, kind: str = "vit", **changes: Any) -> Path:
    """Save a tiny random checkpoint with class names and an image processor."""
    from transformers import ViTImageProcessorPil

    model = make_model(kind, **changes)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: index for index, name in enumerate(NAMES)}
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_images(folder: Path, each: int = 3, names: tuple[str, ...] = NAMES, seed: int = 0) -> Path:
    """Save random images in folders named by class."""
    generator = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder
