"""The closing lines of a command: how to load the checkpoint."""

from collections.abc import Mapping
from typing import Any

from hf_vbp.modeling.modeling_hf_vbp import auto_classes

_USUAL = ("AutoModelForImageClassification", "AutoModel")
# Loads from the Hub only.
_HUB_ONLY = "AutoBackbone"


def how_to_load(results: Mapping[str, Any], output: str) -> list[str]:
    """Return the lines that show how to load a checkpoint, by the ways that its receipt verified.

    Args:
        results: The results of the checkpoint, with its receipt.
        output: Its folder.
    """
    ways = {entry["way"] for entry in results.get("receipt", ())}
    call = f"{_auto_class(results.get('base_model', {}).get('architecture'))}.from_pretrained({output!r}"
    lines = [f"Saved to {output}. Load it with:"]
    if "stock" in ways:
        return [*lines, f"  {call})"]
    lines.append(f"  import hf_vbp; {call})")
    if "remote_code" in ways:
        lines += ["or, where hf_vbp is not installed:", f"  {call}, trust_remote_code=True)"]
    return lines


def _auto_class(architecture: str | None) -> str:
    """Return the name of the auto class that loads an architecture, of the architecture itself where none does."""
    if architecture is None:
        return _USUAL[0]
    tables = auto_classes()
    for name in (*_USUAL, *(name for name in tables if name not in (*_USUAL, _HUB_ONLY))):
        if any(architecture in ((names,) if isinstance(names, str) else names) for names in tables[name].values()):
            return name
    return architecture
