"""The closing lines of a command: how to load the checkpoint."""

from collections.abc import Mapping
from typing import Any

from hf_vbp.checkpoint.model_classes import USUAL_LOADER, auto_class_of


def how_to_load(results: Mapping[str, Any], output: str) -> list[str]:
    """Return the lines that show how to load a checkpoint, by the ways that its receipt verified.

    Args:
        results: The results of the checkpoint, with its receipt.
        output: Its folder.
    """
    ways = {entry["way"] for entry in results.get("receipt", ())}
    architecture = results.get("base_model", {}).get("architecture")
    loader = USUAL_LOADER if architecture is None else auto_class_of(architecture)
    call = f"{loader}.from_pretrained({output!r}"
    lines = [f"Saved to {output}. Load it with:"]
    if "stock" in ways:
        return [*lines, f"  {call})"]
    lines.append(f"  import hf_vbp; {call})")
    if "remote_code" in ways:
        lines += ["or, where hf_vbp is not installed:", f"  {call}, trust_remote_code=True)"]
    return lines
