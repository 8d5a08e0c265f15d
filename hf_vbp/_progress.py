"""Helpers for progress and error messages that several packages share."""

from collections.abc import Callable, Mapping
from typing import Any

LONGEST_SHOWN = 100

Progress = Callable[[int, "int | None"], None]
"""Called with the finished items and the number of all items, ``None`` where it is unknown."""


def one_line(error: BaseException, limit: int = 400) -> str:
    """Return the text of an error on one line, cut to ``limit`` characters; its type where it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, which gets an s except after 1."""
    text = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}s"


def shown(value: Any) -> str:
    """Return any value for a message, in at most about 100 characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return repr(value) if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]!r}..."
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        # Python refuses to print numbers of more than 4,300 digits.
        return "a number of more than 60 digits"
    return repr(value)[:LONGEST_SHOWN]
