"""Helpers for progress, error messages and durable writes that several packages share."""

import os
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, "int | None"], None]
"""Called with the finished items and the number of all items, ``None`` where it is unknown."""


def one_line(error: BaseException, limit: int = 400) -> str:
    """Return the text of an error on one line, cut to ``limit`` characters; its type where it has no text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def flush_to_disk(path: str | os.PathLike[str]) -> None:
    """Wait until a file or folder is on disk."""
    if os.name == "nt" and Path(path).is_dir():
        # Windows cannot open folders.
        return
    descriptor = os.open(Path(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
