"""Format numbers and foreign text for Markdown. Independent of the results."""

import re
from collections.abc import Sequence

from hf_vbp.results.redaction import without_home

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")
_CONTROL_IN_BLOCK = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u0085\u2028\u2029]+")
_MARKUP = re.compile(r"([\\`*_~$\[\]|])")
_LINE_START = re.compile(r"\A(?:[#+=-]|\d+[.)](?=\s|\Z))")
FULL, EMPTY = "█", "░"


class Markdown(str):
    """Text that is safe as Markdown: written by this package, or escaped. The template escapes all other text."""

    __slots__ = ()


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
    """Return the relative change from ``before`` to ``after``, ``"-31.2 %"``; empty where ``before`` is 0."""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def number(value: float) -> str:
    """Return a measured number with four significant digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def foreign(text: object) -> Markdown:
    """Return foreign text as one line that Markdown shows literally, within a sentence or a table cell."""
    if isinstance(text, Markdown):
        return text
    line = without_home(_CONTROL.sub(" ", str(text)).strip())
    line = _MARKUP.sub(r"\\\1", line)
    return Markdown(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def foreign_line(text: object) -> Markdown:
    """Return foreign text as :func:`foreign` does, also safe at the start of a line."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_LINE_START.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", foreign(text)))


def code_block(text: object) -> Markdown:
    """Return foreign text for a fenced code block, which it cannot end, with its line breaks."""
    block = _CONTROL_IN_BLOCK.sub(" ", str(text).replace("\r\n", "\n"))
    return Markdown(without_home(_without_marks(block.replace("```", "'''"))).strip())


def code_span(text: object) -> Markdown:
    """Return foreign text for a code span, which it cannot end."""
    return Markdown(without_home(_without_marks(_CONTROL.sub(" ", str(text)).replace("`", "'"))).strip())


def _without_marks(text: str) -> str:
    # Marks of sections are comments, and they are found within code too.
    return text.replace("<!--", "<! --")


def bar_chart(dense_widths: Sequence[int], widths: Sequence[int], length: int = 40) -> str:
    """Draw the width of every layer as text: kept neurons are dark, removed neurons are light.

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
