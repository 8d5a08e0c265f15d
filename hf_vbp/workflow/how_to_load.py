"""The closing lines of a command: how to load the checkpoint."""

from collections.abc import Mapping
from typing import Any

# The auto classes that load a model of the classes in their mappings, the usual ones first.
_AUTO_CLASSES = {
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForMaskedImageModeling": "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
    "AutoBackbone": "MODEL_FOR_BACKBONE_MAPPING_NAMES",
}


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
    from transformers.models.auto import modeling_auto

    if architecture is None:
        return next(iter(_AUTO_CLASSES))
    for name, mapping in _AUTO_CLASSES.items():
        for classes in getattr(modeling_auto, mapping).values():
            if architecture in ((classes,) if isinstance(classes, str) else classes):
                return name
    return architecture
