"""Text of the cells of the tables of a card."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_vbp.card.text import count, percent

STATES = {"dense": "before", "pruned": "after pruning", "finetuned": "after fine-tuning"}


def conditions(row: Mapping[str, Any]) -> str:
    """Return device, dtype and threads of a measurement in one cell."""
    device = row["device"] if "device_name" not in row else f"{row['device_name']} ({row['device']})"
    threads = row.get("threads")
    counted = "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"
    return f"{device}, {row['dtype']}{counted}"


def speedup(row: Mapping[str, Any]) -> str:
    """Return the speed-up of a measurement with its interval; empty where there is none."""
    if "speedup" not in row:
        return ""
    interval = row.get("speedup_interval", ())
    bounds = f" ({interval[0]:.2f} to {interval[1]:.2f})" if len(interval) == 2 else ""
    return f"{row['speedup']:.2f}x{bounds}"


def are_figures(cells: Sequence[str]) -> bool:
    """Return whether the cells of a column are all figures, which are aligned to the right."""
    return any(cells) and all(cell[:1] in "0123456789+-." for cell in cells if cell)


def scalars(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the figures of an open section, without lists (one entry per layer)."""
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            found += scalars(item, f"{prefix}{key} ")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            found.append((prefix + key, item))
    return found


def accuracy_without_head(evaluation: Mapping[str, Any], state: str) -> str:
    """Return the accuracy by neighbors or prompts before and after, for the headline."""
    for key, name in (("zero_shot", "zero-shot top-1"), ("knn", "k-nearest-neighbor top-1")):
        if key in evaluation.get("dense", {}) and key in evaluation[state]:
            before, after = (percent(evaluation[each][key]["top1"]) for each in ("dense", state))
            images = count(evaluation[state]["images"])
            return f"; {name} {before} before, {after} {STATES[state]}, on {images} images"
    return ""
