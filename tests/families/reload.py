"""Loads checkpoints in a fresh process: ``python reload.py import|remote FOLDER`` writes FOLDER/WAY.json.

Imports nothing of hf_vbp, which is blocked in the way "remote": there the code that comes with the checkpoint is used.
"""

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch


class Block:
    """Makes ``import hf_vbp`` fail, as where the package is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "hf_vbp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(way: str, folder: Path) -> None:
    """Load every checkpoint and write what was found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if way == "import":
        import_module("hf_vbp")
    else:
        sys.meta_path.insert(0, Block())
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {}
    for file in sorted(folder.glob("*.pt")):
        job = torch.load(file, weights_only=True)
        try:
            found[file.stem] = compared(way, file.with_suffix(""), job)
            if "task" in job and found[file.stem]["by"] is not None:
                found[file.stem]["pipeline"] = piped(way, file.with_suffix(""), job)
        except Exception as error:
            found[file.stem] = {"error": f"{type(error).__name__}: {error}"[-400:]}
    (folder / f"{way}.json").write_text(json.dumps(found))


def compared(way: str, checkpoint: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What differs between the model of a checkpoint and the outputs and weights that were recorded."""
    loader, by = opener(way, checkpoint, job)
    if loader is None:
        return {"by": None}
    options = {} if by == job["class"] else {"trust_remote_code": True}
    model, info = loader.from_pretrained(checkpoint, output_loading_info=True, **options)
    model.eval()
    if type(model).__name__ != job["class"]:
        raise TypeError(f"a {type(model).__name__} was loaded")
    state = model.state_dict()
    wrong = [key for key, value in job["state"].items() if key not in state or not torch.equal(state[key], value)]
    as_loaded = difference(model, job)
    for tensor in (*model.parameters(), *model.buffers()):
        # Weights in a mapped file may start at any address, by which some kernels choose the order of their sums.
        tensor.data = tensor.data.clone()
    return {
        "by": by,
        "as_loaded": as_loaded,
        "aligned": difference(model, job) if as_loaded else 0.0,
        "wrong": wrong[:5],
        "missing": sorted(info["missing_keys"])[:5],
    }


def piped(way: str, checkpoint: Path, job: dict[str, Any]) -> dict[str, Any]:
    """The class that the pipeline of the task opened, and what it gives for one image."""
    import transformers
    from PIL import Image

    options = {} if way == "import" else {"trust_remote_code": True}
    pipe = transformers.pipeline(job["task"], model=str(checkpoint), device="cpu", **options)
    item = job["item"].numpy()
    found = numbers(pipe(item if item.ndim == 1 else Image.fromarray(item), **job["arguments"]))
    expected = job["expected"]
    same = len(found) == len(expected) > 0 and all(
        abs(one - other) <= 1e-4 * max(1.0, abs(other)) for one, other in zip(found, expected, strict=True)
    )
    return {"class": type(pipe.model).__name__, "same": same}


def numbers(value: Any) -> list[float]:
    """The numbers in the result of a pipeline, and the number of its parts."""
    if isinstance(value, torch.Tensor):
        return [float(one) for one in value.flatten()]
    if isinstance(value, dict):
        return [one for key in sorted(value) for one in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [float(len(value)), *(one for each in value for one in numbers(each))]
    if hasattr(value, "tobytes"):
        return [float(sum(value.tobytes()))]
    return [float(value)] if isinstance(value, int | float) else []


def difference(model: Any, job: dict[str, Any]) -> float:
    """The largest difference of the outputs, relative to the largest value of each."""
    with torch.no_grad():
        outputs = flattened(model(**job["inputs"]))
    found = [0.0]
    for key, value in job["outputs"].items():
        if value.numel():
            scale = value.abs().max().double().clamp(min=1e-6)
            found.append(float((outputs[key].double() - value.double()).abs().max() / scale))
    return max(found)


def opener(way: str, checkpoint: Path, job: dict[str, Any]) -> tuple[Any, str | None]:
    """The class, or an auto class, by which a checkpoint is loaded, and its name."""
    import transformers

    if way == "import":
        return getattr(import_module(job["module"]), job["class"]), job["class"]
    entries = json.loads((checkpoint / "config.json").read_text()).get("auto_map", {})
    names = sorted(name for name, value in entries.items() if value.endswith("." + job["class"]))
    # AutoBackbone takes names of the Hub only.
    names = [name for name in names if name != "AutoBackbone"]
    return (getattr(transformers, names[0]), names[0]) if names else (None, None)


def flattened(output: Any, prefix: str = "") -> dict[str, Any]:
    """All floating tensors in an output by name, as in ``contract.tensors``."""
    if isinstance(output, torch.Tensor):
        return {prefix: output} if output.is_floating_point() else {}
    if isinstance(output, dict):
        pairs = list(output.items())
    else:
        pairs = list(enumerate(output)) if isinstance(output, list | tuple) else []
    found = {}
    for key, value in pairs:
        found.update(flattened(value, f"{prefix}.{key}"))
    return found


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
