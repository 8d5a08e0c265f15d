"""The latency of an exported file, in turns with the exported dense model where there is one."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from hf_vbp.costs.device_name import processor_name
from hf_vbp.costs.timing import median_interval, median_uncertainty
from hf_vbp.export.parity import Opened

# A time is left out where the 95 % interval of its median extends further to either side: other work on the machine
# was measured. Other commands repeat until the interval is narrow; an export measures for some seconds.
WIDEST = 0.25

Rows = list[dict[str, Any]]


def latency_rows(opened: Opened, name: str, warn: Callable[[str], None]) -> tuple[Rows, Rows]:
    """Return the ``latency`` part of a row, and that of the dense model in the same precision.

    Args:
        opened: The times: of the dense model in float32, of that in the precision of the file where it is another,
            and of the file. Without a dense model, of the file only.
        name: The name of the file, for the warning.
        warn: Receives a sentence for each number of threads whose times are too uncertain to be recorded.
    """
    rows: Rows = []
    dense_rows: Rows = []
    for measured in opened.times:
        threads, times = measured["threads"], measured["seconds"]
        uncertainty = max(median_uncertainty(values) for values in times)
        if not uncertainty <= WIDEST:
            warn(
                f"{name}: the latency with {threads} thread{_plural(threads)} is left out: the 95 % interval "
                f"of a median of {len(times[-1])} passes extends by {100 * uncertainty:.0f} %, expected at most "
                f"{100 * WIDEST:.0f} %. Other work may be running on this machine."
            )
            continue
        rows.append({**_row(threads, times[-1]), **(_gain(times[-1], times[0]) if len(times) > 1 else {})})
        if len(times) > 2:
            dense_rows.append({**_row(threads, times[1]), **_gain(times[1], times[0])})
        elif len(times) > 1:
            dense_rows.append(_row(threads, times[0]))
    return rows, dense_rows


def _plural(number: int) -> str:
    return "s" if number > 1 else ""


def _row(threads: int, seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "threads": threads,
        "batch": 1,
        "device_name": processor_name(),
        "repetitions": len(seconds),
        "median_ms": statistics.median(seconds) * 1e3,
        "interval_ms": [1e3 * bound for bound in median_interval(seconds)],
    }


def _gain(own: Sequence[float], dense: Sequence[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(own, dense, strict=True)]
    low, high = median_interval(ratios)
    return {
        "dense_ms": statistics.median(dense) * 1e3,
        "speedup": 1 / statistics.median(ratios),
        "speedup_interval": [1 / high, 1 / low],
    }
