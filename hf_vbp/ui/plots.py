"""The data of the plots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from hf_vbp.pruning.preview import Preview

KEPT, REMOVED = "kept", "removed"
COLORS = {REMOVED: "#94a3b8", KEPT: "#2563eb"}


def widths(preview: "Preview", dense: Sequence[int]) -> "DataFrame":
    """Return kept and removed neurons of every layer, in its order."""
    from pandas import DataFrame

    digits = len(str(len(dense)))
    rows = [
        {"layer": f"{index:0{digits}d}", "neurons": count, "state": state}
        for index, (width, full) in enumerate(zip(preview.widths, dense, strict=True), start=1)
        for state, count in ((REMOVED, full - width), (KEPT, width))
    ]
    return DataFrame(rows)


def curve(rows: Sequence[dict[str, Any]], predicted: Sequence[tuple[float, float]]) -> "DataFrame":
    """Return the measured agreement with the dense model and the predicted damage, in percent of neurons removed.

    Args:
        rows: The rows of a sweep.
        predicted: Shares of removed neurons with the predicted relative output error.
    """
    from pandas import DataFrame

    measured = [
        {"removed": 100 * row["ratio"], "share": 100 * row["agreement"], "measure": "agreement"}
        for row in rows
        if row.get("agreement") is not None
    ]
    expected = [
        {"removed": 100 * ratio, "share": 100 * error, "measure": "predicted error"} for ratio, error in predicted
    ]
    return DataFrame([*measured, *expected], columns=["removed", "share", "measure"])
