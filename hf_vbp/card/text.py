"""Numbers and foreign text as they are written in a card. Nothing here knows what a result is."""

import re
from collections.abc import Sequence
from pathlib import Path

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
FULL, EMPTY = "█", "░"


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction between 0 and 1 as percent, ``0.757 -> "75.7 %"``."""
    return f"{100 * fraction:.{digits}f} %"


def with_interval(fraction: float, interval: Sequence[float] | None) -> str:
    """Return a fraction with its confidence interval, ``75.7 % (73.1 to 78.2)``."""
    if interval is None:
        return percent(fraction)
    low, high = interval
    return f"{percent(fraction)} ({100 * low:.1f} to {100 * high:.1f})"


def count(number: int) -> str:
    """Return a count with separated thousands, ``5717416 -> "5,717,416"``."""
    return f"{number:,}"


def quantity(number: float, unit: str = "") -> str:
    """Return a large number in the unit that leaves one to three digits, ``1.26e9 -> "1.26 G"``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.2f} {prefix}{unit}"
    return f"{number:g} {unit}".rstrip()


def change(before: float, after: float) -> str:
    """Return how much less (or more) ``after`` is than ``before``, ``"-31.2 %"``; empty for nothing to compare."""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def number(value: float) -> str:
    """Return a measured number with four significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def foreign(text: object) -> str:
    """Return text that came from outside, safe within a table cell or a sentence of Markdown."""
    line = _CONTROL.sub(" ", str(text)).strip()
    line = re.sub(r"([\\`*_\[\]|])", r"\\\1", line)
    return private(line.replace("<", "&lt;").replace(">", "&gt;"))


def literal(text: object) -> str:
    """Return text that came from outside as it stands within a code block or a code span."""
    return private(str(text).replace("```", "'''").replace("\x00", "").strip())


def private(text: str) -> str:
    """Return ``text`` without the home directory of whoever runs this, and without anything like a token."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?=[/\\\s'\"]|$)", "~", text)
    return _TOKEN.sub("hf_...", text)


def bar_chart(dense_widths: Sequence[int], widths: Sequence[int], length: int = 40) -> str:
    """Draw the width of every layer as text: what stays is filled, what went is light.

    Text works in every renderer, needs no further file in the commit, and a change of it can be read in a diff.

    Args:
        dense_widths: Width of every site before pruning, in block order.
        widths: Width of every site after it.
        length: Characters of the widest dense site.
    """
    widest, digits = max([*dense_widths, 1]), len(str(max([*dense_widths, 1])))
    lines = []
    for index, (dense, kept) in enumerate(zip(dense_widths, widths, strict=True)):
        total = max(1, round(length * dense / widest)) if dense else 0
        filled = round(total * kept / dense) if dense else 0
        filled = max(filled, 1) if kept else 0
        share = f"{100 * kept / dense:5.1f} %" if dense else "    - %"
        bar = (FULL * filled).ljust(total, EMPTY).ljust(length)
        lines.append(f"{index:3d} {bar} {kept:{digits}d} / {dense:{digits}d} {share}")
    return "\n".join(lines)
