"""Checkpoints for a process without hf_vbp, and the checks of the files that it saved."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForImageClassification, ViTImageProcessor

from tests.checkpoint.helpers import UNIFORM, WIDTHS, assert_same_outputs, images, make_pruned, outputs, widths_of

CASES = [
    ("vit", "float32", WIDTHS),
    ("vit", "bfloat16", WIDTHS),
    ("deit", "float32", WIDTHS),
    ("deit", "bfloat16", WIDTHS),
    ("deit-teacher", "float32", WIDTHS),
    ("deit-teacher", "bfloat16", WIDTHS),
    ("vit-backbone", "float32", WIDTHS),
    ("deit-backbone", "float32", WIDTHS),
    ("sam-backbone", "float32", WIDTHS),
    ("vit", "float32", UNIFORM),
    ("deit-teacher", "bfloat16", UNIFORM),
]


def visit(python: str, folder: Path) -> str:
    """Load checkpoints in a process without hf_vbp, save them again there, and load the result here.

    Returns:
        The version of transformers of that process.
    """
    models: dict[str, Any] = {}
    checkpoints = [_prepare(folder, models, *case) for case in CASES]
    (folder / "output").mkdir()
    job = {"checkpoints": checkpoints, "output": str(folder / "output")}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).with_name("stranger.py")
    # A copy, because the folder of a script is the first place that it imports from.
    (folder / "stranger.py").write_bytes(script.read_bytes())
    result = subprocess.run(
        [python, str(folder / "stranger.py"), str(folder / "job.json")],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"), "HF_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    for name, model in models.items():
        loader = AutoModel if "backbone" in name else AutoModelForImageClassification
        assert_same_outputs(loader.from_pretrained(folder / "output" / name, dtype=model.dtype), model)
    assert widths_of(AutoModel.from_pretrained(folder / "output" / "backbone-of-classifier")) == WIDTHS
    return result.stdout.strip()


def _prepare(folder: Path, models: dict[str, Any], kind: str, dtype: str, widths: list[int]) -> dict[str, Any]:
    uniform = widths is UNIFORM
    name = f"{kind}-{dtype}-{'uniform' if uniform else 'different'}"
    model = models[name] = make_pruned(kind, widths, dtype=getattr(torch, dtype))
    model.save_pretrained(folder / name)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    results = {key: value.contiguous() for key, value in outputs(model).items()}
    reference = {"pixel_values": images(dtype=model.dtype), **results}
    save_file(reference, folder / name / "reference.safetensors")
    loader = "AutoModel" if "backbone" in kind else "AutoModelForImageClassification"
    return {"folder": str(folder / name), "loader": loader, "dtype": dtype, "uniform": uniform}


def same_python() -> str:
    """Return the interpreter of the tests."""
    return sys.executable
