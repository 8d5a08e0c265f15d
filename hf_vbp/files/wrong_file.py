"""Name what a file holds, for messages about a file that was given in place of another."""

import codecs
import json
from pathlib import Path

from hf_vbp.files.text import read_small_text

_FIRST_BYTES = 4096


def missing_or_special(path: Path) -> str | None:
    """Return why a path is no file that can be read: there is none, a folder, or a pipe or device; None for a file."""
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a folder, not a file"
    return None if path.is_file() else "it is not a file, but a pipe or a device"


def content_of(path: Path) -> str | None:
    """Return what an existing file holds, for instance ``a pruning plan``; None where it is not recognized.

    Args:
        path: A file, as :func:`missing_or_special` found.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST_BYTES)
    except OSError:
        return None
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        # The header begins with the metadata, in any order; only files of hf_vbp have a description there.
        own = b'"description":"{' in start
        return "a file of statistics (safetensors)" if own else "a safetensors file, as weights are"
    if start.lstrip()[:1] in (b"{", b"["):
        return _kind_of_json(path)
    if not start.strip():
        return "an empty file"
    try:
        # An incremental decoder accepts a last character that is cut off.
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else "text"


def _kind_of_json(path: Path) -> str:
    try:
        content = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError):
        return "JSON"
    fields = content if isinstance(content, dict) else {}
    if {"sites", "weights"} <= fields.keys():
        return "a pruning plan (JSON)"
    return "results of a pruning (JSON)" if "schema_version" in fields else "JSON"
