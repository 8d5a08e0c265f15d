"""Checkpoints of every model class load again, by every way, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import hf_vbp
from hf_vbp.checkpoint import receipt

from . import processors
from .contract import (
    BY_CLASS_ONLY,
    FIRST,
    PRUNED,
    TOWERS,
    fixed,
    outputs,
    simple_of,
    tower_config,
    with_smaller_tower,
    work_of,
)
from .family import Family
from .reload import numbers
from .running import BY_NAME

HERE = Path(__file__).parent


def save_all(folder: Path) -> None:
    """Save every pruned model, with its inputs, outputs and weights in a file next to it."""
    for family in PRUNED:
        if family.needs and not installed(family.needs):
            continue
        _, small = simple_of(family.name)
        batch = work_of(family.name).batches[0]
        hf_vbp.save_checkpoint(small, folder / family.name, verify=False)
        write_receipt(small, folder / family.name, batch)
        record(small, fixed(small, batch), folder / f"{family.name}.pt", **pipeline_of(family, small, folder))
    for name in TOWERS:
        model, plan = with_smaller_tower(name)
        model.save_pretrained(folder / f"{name}-tower")
        record(model, BY_NAME[name].batch(2), folder / f"{name}-tower.pt")
        config = json.loads((folder / f"{name}-tower" / "config.json").read_text())
        assert "vbp" not in config
        assert tower_config(name, config)["vbp"]["widths"] == plan.widths


def write_receipt(model: Any, checkpoint: Path, batch: dict[str, Any]) -> None:
    """Write the files of a receipt, and read them as its process does; the process itself is tested elsewhere."""
    with TemporaryDirectory() as job_folder:
        receipt._write_job(model, checkpoint, ("import",), Path(job_folder), batch)
        read = load_file(Path(job_folder) / "reference.safetensors")
        expected = receipt.reference_outputs(model, load_file(Path(job_folder) / "inputs.safetensors"))
    assert read.keys() == expected.keys(), checkpoint
    assert all(torch.equal(read[name], value) for name, value in expected.items()), checkpoint


def pipeline_of(family: Family, model: Any, folder: Path) -> dict[str, Any]:
    """Save the processor of a model, and return what the pipeline of its task gives for one image or sound."""
    processor, task = processors.processor_of(family, model), processors.task_of(family, model)
    if processor is None or task is None:
        return {}
    parts, arguments = processors.parts_of(task, processor), processors.arguments_of(task)
    if family.class_name == "TimmWrapperForImageClassification":
        # The processor is described by the config, as in the checkpoints of timm.
        file = folder / family.name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "pretrained_cfg": processors.timm_config(model)}))
    else:
        for part in parts.values():
            part.save_pretrained(folder / family.name)
    item = processors.sound() if task == "audio-classification" else processors.image()
    expected = numbers(transformers.pipeline(task, model=model, device="cpu", **parts)(item, **arguments))
    array = torch.from_numpy(np.array(item))
    return {"task": task, "arguments": arguments, "item": array, "expected": expected}


def record(model: Any, batch: dict[str, Any], file: Path, **more: Any) -> None:
    """Write what a reloaded model is compared with."""
    job = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "inputs": batch,
        "outputs": outputs(model, batch),
        "state": model.state_dict(),
        **more,
    }
    torch.save(job, file)


def installed(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def loaded(folder: Path, *ways: str) -> dict[str, dict[str, Any]]:
    """Load all checkpoints of a folder in one process per way, at the same time."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(folder / "modules"),
        "PYTHONPATH": str(Path(hf_vbp.__file__).parents[1]),
    }
    processes = [
        subprocess.Popen([sys.executable, str(HERE / "reload.py"), way, str(folder)], env=environment) for way in ways
    ]
    assert [process.wait() for process in processes] == [0] * len(ways)
    return {way: json.loads((folder / f"{way}.json").read_text()) for way in ways}


@pytest.mark.processes
def test_every_checkpoint_loads_by_import_and_by_remote_code(tmp_path: Path) -> None:
    save_all(tmp_path)
    found = loaded(tmp_path, "import", "remote")
    names = {file.stem for file in tmp_path.glob("*.pt")}
    assert {family.name for family in PRUNED if not family.needs} <= names
    failed = {
        f"{name} by {way}": result
        for way, results in found.items()
        for name, result in results.items()
        if not good(result)
    }
    assert not failed, json.dumps(failed, indent=1)
    assert all(result["by"] is not None for result in found["import"].values())
    without = {name.partition("-")[0] for name, result in found["remote"].items() if result["by"] is None}
    assert without == BY_CLASS_ONLY
    for results in found.values():
        for name, result in results.items():
            assert result.get("pipeline", {"class": name.partition("-")[0]})["class"] == name.partition("-")[0]
    piped = {name for name, result in found["remote"].items() if "pipeline" in result}
    assert {"ViTForImageClassification", "DetrForObjectDetection", "CLIPModel", "ASTForAudioClassification"} <= piped
    assert piped == {name for name, result in found["import"].items() if "pipeline" in result} - BY_CLASS_ONLY


def good(result: dict[str, Any]) -> bool:
    """Whether the weights are the same, and the outputs up to the address of the weights in memory."""
    if result.get("by", "") is None:
        return True
    if "error" in result or result["wrong"] or result["missing"]:
        return False
    if not result.get("pipeline", {"same": True})["same"]:
        return False
    return result["aligned"] == 0.0 and result["as_loaded"] <= 1e-6


DENSE = pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=() if family.name in FIRST else pytest.mark.slow)
        for family in PRUNED
        if not family.needs
    ],
)


@DENSE
def test_a_dense_model_is_not_touched(family: Family, tmp_path: Path) -> None:
    """hf_vbp is imported in this process, and has patched transformers."""
    model = family.build()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"vbp", "auto_map", "per_layer_config"} & config.keys()
    assert {file.name for file in tmp_path.iterdir()} <= {
        "config.json",
        "model.safetensors",
        "generation_config.json",
    }
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model)
    assert type(again).__module__.startswith("transformers.models.")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    assert again.state_dict().keys() == state.keys()
