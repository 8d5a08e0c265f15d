"""The manifest: which files of a folder hf_vbp wrote, and so may replace."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from hf_vbp._progress import shown
from hf_vbp._version import __version__
from hf_vbp.errors import CheckpointError
from hf_vbp.files.atomic import is_hidden_folder, lock_path
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import CARD, CONFIG, INDEX, MANIFEST, MODELING_FILE, PLAN, PROCESSORS, RECIPE, RESULTS
from hf_vbp.files.text import read_small_text
from hf_vbp.results.checks import find_problem
from hf_vbp.results.figures import Count

_FORMAT, _VERSION = "hf_vbp.manifest", 1
_UNKNOWN_FILES = (
    "So the files that may be replaced are not known. Choose another output, or remove the folder yourself."
)
# The files of the first version of hf_vbp, which had no manifest: prune, finetune, save_checkpoint, PublishCallback.
_FIRST_VERSION = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|"
    + "|".join(map(re.escape, (CONFIG, INDEX, MODELING_FILE, *PROCESSORS, PLAN, RECIPE, RESULTS)))
)


class _Entry(TypedDict):
    size: Count
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """One file of a manifest.

    Attributes:
        size: Its bytes, None where only the hash is known.
        sha256: Its hash, None where only the name is known.
    """

    size: int | None = None
    sha256: str | None = None

    def matches(self, path: Path) -> bool:
        """Return whether a file has the recorded content, as far as it is recorded."""
        if not path.is_file():
            return False
        if self.size is not None and path.stat().st_size != self.size:
            return False
        return self.sha256 is None or _sha256(path) == self.sha256


@dataclass(frozen=True)
class Contents:
    """The files of a folder that may be replaced.

    Attributes:
        replaceable: Names of the files that hf_vbp wrote, the manifest among them.
        has_own_card: Whether there is a README.md that hf_vbp did not write, or that was changed since.
    """

    replaceable: tuple[str, ...] = ()
    has_own_card: bool = False


def is_checkpoint_file(name: str) -> bool:
    """Return whether a name is that of a file of a checkpoint."""
    return name == MANIFEST or _FIRST_VERSION.fullmatch(name) is not None


def write_manifest(folder: Path, *, without: frozenset[str] = frozenset()) -> None:
    """Write the manifest of all files in a folder that was just written.

    Args:
        folder: The folder.
        without: Names of files that are not to be listed, since they are the user's.
    """
    names = sorted(name for name in _names(folder, folder) if name not in without and name != MANIFEST)
    files = {name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    content = {"format": _FORMAT, "version": _VERSION, "hf_vbp": __version__, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, FileRecord] | None:
    """Return the manifest of a folder by file name; None where there is none.

    Raises:
        CheckpointError: It is damaged, or of a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = read_json_object(path, _UNKNOWN_FILES)
    for name, expected in (("format", _FORMAT), ("version", _VERSION)):
        if type(content.get(name)) is not type(expected) or content[name] != expected:
            given = shown(content[name]) if name in content else "missing"
            raise CheckpointError(f"{path}: {name} is {given}; expected {expected!r}. {_UNKNOWN_FILES}")
    problem = find_problem(content.get("files"), dict[str, _Entry], "files")
    if problem is not None:
        raise CheckpointError(f"{path}: {problem} {_UNKNOWN_FILES}")
    return {name: FileRecord(entry["size"], entry["sha256"]) for name, entry in content["files"].items()}


def replaceable_contents(folder: Path) -> Contents:
    """Return the replaceable files of a folder that has no other files.

    Without a manifest, the file names of the first version count if the folder has its results or its record in the
    config; the hashes in its receipt are compared. README.md is always accepted, because it is carried over.

    Raises:
        CheckpointError: There is a file that hf_vbp did not write, or that was changed since; names the first.
    """
    recorded = read_manifest(folder)
    records = _first_version_records(folder) if recorded is None else recorded
    names = []
    own_card = False
    for name in _names(folder, folder):
        if name == CARD:
            own_card = name not in records or not records[name].matches(folder / name)
            if own_card and not (folder / name).is_file():
                raise _refusal(folder, name, "which is not a regular file")
            if own_card:
                continue
        elif name != MANIFEST and name not in records:
            raise _refusal(folder, name, "which hf_vbp did not write")
        names.append(name)
    # After the names, which are quick to compare.
    for name in names:
        if name in records and name != CARD and not records[name].matches(folder / name):
            raise _refusal(folder, name, "which was changed after hf_vbp wrote it")
    return Contents(tuple(names), own_card)


def is_empty(folder: Path) -> bool:
    """Return whether a folder has only unfinished files of hf_vbp and the files of a new volume."""
    return next(_names(folder, folder), None) is None


def _refusal(folder: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} holds {name}, {reason}, so it is not overwritten; nothing was changed. Choose another output, or "
        "move the file elsewhere."
    )


def _names(folder: Path, root: Path) -> Iterator[str]:
    """Return the names of all files below a folder, relative to ``root``, in order; ``name/`` for empty folders."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if folder == root and _is_no_content(path, root):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield path.relative_to(root).as_posix()
            continue
        first = None
        for first in _names(path, root):
            yield first
        if first is None:
            yield f"{path.relative_to(root).as_posix()}/"


def _is_no_content(path: Path, root: Path) -> bool:
    if path == lock_path(root, inside=True) or is_hidden_folder(path, root):
        return True
    # mkfs makes it in every volume.
    return path.name == "lost+found" and os.path.ismount(root)


def _first_version_records(folder: Path) -> dict[str, FileRecord]:
    results, config = _json_object(folder / RESULTS), _json_object(folder / CONFIG)
    if "schema_version" not in results and "vbp" not in config:
        # Nothing shows that hf_vbp wrote it: checkpoints of other tools have files of the same names.
        return {}
    hashes: dict[str, str] = {}
    for row in results.get("receipt") or []:
        if isinstance(row, dict) and isinstance(row.get("files"), dict):
            hashes |= row["files"]
    names = [path.name for path in folder.iterdir() if _FIRST_VERSION.fullmatch(path.name) and path.is_file()]
    return {name: FileRecord(sha256=hashes.get(name)) for name in names}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
