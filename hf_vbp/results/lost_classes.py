"""The classes whose accuracy falls most. Pure."""

from collections.abc import Mapping
from typing import Any

FEWEST_IMAGES = 10
MOST_CLASSES = 5


def lost_classes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """Return the classes that lose most top-1, of those with at least ten images, the largest loss first.

    Args:
        before: An entry of the ``evaluation`` part of the results.
        after: That of another model on the same images.

    Returns:
        For at most five classes: label or id, number of images, top-1 before and after.
    """
    dense, pruned = before.get("classes", {}), after.get("classes", {})
    rows = [
        (row.get("label", f"class {name}"), row["images"], row["top1"], pruned[name]["top1"])
        for name, row in dense.items()
        if name in pruned and row["images"] >= FEWEST_IMAGES and pruned[name]["top1"] < row["top1"]
    ]
    return sorted(rows, key=lambda row: (row[3] - row[2], row[0]))[:MOST_CLASSES]


def describe_losses(before: Mapping[str, Any], after: Mapping[str, Any], most: int = 3) -> str | None:
    """Return the classes that lose most as a text, such as ``"cat 80.0 to 50.0 % (20)"``; None where none loses.

    Args:
        before: As for :func:`lost_classes`.
        after: As for :func:`lost_classes`.
        most: The number of classes in the text.
    """
    lost = lost_classes(before, after)[:most]
    texts = [f"{name} {100 * first:.1f} to {100 * now:.1f} % ({images})" for name, images, first, now in lost]
    return "; ".join(texts) or None
