"""Loads a checkpoint where hf_vbp is blocked, and measures the difference of its outputs from the reference.

Run as a script in a separate process, with the path of a job file; see :mod:`hf_vbp.checkpoint.receipt`. It imports
nothing of hf_vbp, which is blocked until the way "import" asks for it, and runs under every transformers from 4.57.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# The errors of loading; any other error ends the process, which is a failure too.
_FAILURES = (OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, ImportError)


class _Block:
    """Makes ``import hf_vbp`` fail, as it does where the package is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "hf_vbp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(job_file: str) -> None:
    """Do the job and write ``result.json`` to the folder of the job file."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    block = _Block()
    sys.meta_path.insert(0, block)
    if job["module_path"] is not None:
        sys.path.append(job["module_path"])
    import torch

    torch.set_num_threads(job["threads"])
    results = []
    # The ways without hf_vbp come first, because an import cannot be undone.
    for way in sorted(job["ways"], key=lambda way: way == "import"):
        if way == "import":
            sys.meta_path.remove(block)
            sys.path.append(job["package"])
            __import__("hf_vbp")
        elif "hf_vbp" in sys.modules:
            raise RuntimeError("hf_vbp is imported, although it was blocked")
        try:
            results.append(_open(way, job))
        except _FAILURES as error:
            results.append({"way": way, "error": f"{type(error).__name__}: {error}"})
    Path(job_file).with_name("result.json").write_text(json.dumps(results), encoding="utf-8")


def _open(way: str, job: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers
    from safetensors.torch import load_file

    # Some classes are not exported at the top.
    loader = getattr(transformers, job["loader"], None) or getattr(import_module(job["module"]), job["loader"])
    options: dict[str, Any] = {"trust_remote_code": way == "remote_code"}
    if job["attn_implementation"] is not None:
        options["attn_implementation"] = job["attn_implementation"]
    model, info = loader.from_pretrained(
        job["directory"], dtype=getattr(torch, job["dtype"]), output_loading_info=True, **options
    )
    reference = load_file(job["references"][way])
    # An auto class cannot know that a backbone was built without its pooler; a new one changes no other output.
    without_pooler = "last_hidden_state" in reference and "pooler_output" not in reference
    missing = [key for key in info["missing_keys"] if not (without_pooler and key.startswith("pooler."))]
    if missing or info["mismatched_keys"]:
        raise RuntimeError(f"weights are missing ({missing}) or do not fit ({info['mismatched_keys']})")
    if type(model).__name__ != job["architecture"]:
        raise RuntimeError(f"a {type(model).__name__} was loaded, expected {job['architecture']}")
    model.to(job["device"]).eval()
    with torch.no_grad():
        inputs = {name: value.to(job["device"]) for name, value in load_file(job["inputs"]).items()}
        output = model(**inputs, **job["options"])
    outputs = flattened(output)
    differences = [_difference(outputs[name].cpu(), value) for name, value in reference.items()]
    return {"way": way, "transformers": transformers.__version__, "max_abs_difference": max(differences)}


def flattened(output: Any, prefix: str = "") -> "dict[str, Any]":
    """Return all tensors of the output of a model by name, also those in tuples and in outputs of its parts."""
    if hasattr(output, "is_floating_point"):
        return {prefix or "output": output}
    if isinstance(output, dict):
        items = [(str(name), value) for name, value in output.items()]
    else:
        items = (
            [(str(index), value) for index, value in enumerate(output)] if isinstance(output, (list, tuple)) else []
        )
    found = {}
    for name, value in items:
        found.update(flattened(value, f"{prefix}.{name}" if prefix else name))
    return found


def _difference(actual: Any, expected: Any) -> float:
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        raise RuntimeError(
            f"the output is {actual.dtype} {tuple(actual.shape)}, expected {expected.dtype} {tuple(expected.shape)}"
        )
    return float((actual.double() - expected.double()).abs().max()) if actual.numel() else 0.0


if __name__ == "__main__":
    main(sys.argv[1])
