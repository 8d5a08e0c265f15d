"""How exported files were compared, in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_vbp.card import text


def comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return on what exported files were compared, and where their latency was measured.

    Args:
        rows: The rows of the files; at least one.
    """
    row = rows[0]
    images = "random values" if row["data"] == "generated" else f"images of {row['data']}"
    sentence = f"compared with the PyTorch model on {text.count(row['images'])} {images}"
    measured = next((one for row in rows for one in row.get("latency", [])), None)
    if measured is not None:
        sentence += f". Latency is the median of one image on {measured['device_name']}"
        dense = any("speedup" in one for row in rows for one in row.get("latency", []))
        sentence += ", in parentheses the speed-up over the dense model in float32" if dense else ""
    if any("dense" in row for row in rows):
        sentence += '. "dense" is the dense model, exported in the same way, compared with its own PyTorch model'
    return sentence + "."
