"""The files of a checkpoint that a push sends: a list of names, never a pattern over the folder."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.checkpoint.remote_code import local_files, top_level_references
from hf_vbp.errors import CheckpointError
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import CONFIG, INDEX, PLAN, PROCESSORS, RECIPE, RESULTS, WEIGHTS
from hf_vbp.files.text import read_small_text

_BLOCK = 1 << 20
_BINARY = (".safetensors", ".onnx", ".onnx_data", ".bin", ".pt2", ".pte")
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


@dataclass(frozen=True)
class PushFile:
    """One file of a push.

    Attributes:
        path: Its name in the repository.
        source: Its path on disk, or its content.
        size: Its size in bytes.
        sha256: Its hash, which identifies it in LFS and Xet.
        git_oid: The name of its git object, which identifies a regular file on the Hub.
    """

    path: str
    source: Path | bytes
    size: int
    sha256: str
    git_oid: str

    @classmethod
    def of(cls, path: str, source: Path | bytes) -> "PushFile":
        """Hash a file or a content."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if isinstance(source, bytes):
            sha256.update(source)
            sha1.update(source)
        else:
            with source.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    sha256.update(block)
                    sha1.update(block)
        return cls(path, source, size, sha256.hexdigest(), sha1.hexdigest())

    def read(self) -> bytes:
        """Return the content."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    @property
    def is_text(self) -> bool:
        """Whether it is a text file, which may hold private text anywhere."""
        return not self.path.endswith(_BINARY)


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        CheckpointError: It is missing, or not a JSON object.
    """
    return read_json_object(directory / name, "Give the folder of a checkpoint.")


def read_text(path: Path) -> str:
    """Read a text file of a checkpoint.

    Raises:
        CheckpointError: It cannot be read, or is not UTF-8.
    """
    try:
        return read_small_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({one_line(error)}). Save it as UTF-8 text.") from error


def weight_names(directory: Path) -> list[str]:
    """Return the names of the weight files: one, or the index and its shards.

    Raises:
        CheckpointError: There are none, there are both, or the index is damaged.
    """
    single, sharded = (directory / WEIGHTS).is_file(), (directory / INDEX).is_file()
    if single and sharded:
        raise CheckpointError(
            f"{directory} holds both {WEIGHTS} and {INDEX}, so the weights of the model are ambiguous. "
            "Save the checkpoint again into an empty folder."
        )
    if single:
        return [WEIGHTS]
    if not sharded:
        raise CheckpointError(
            f"{directory} holds neither {WEIGHTS} nor {INDEX}: only safetensors can be pushed. Save the model again."
        )
    shards = read_json(directory, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{directory / INDEX} names no shards; save the checkpoint again.")
    names = sorted({str(name) for name in shards.values()})
    wrong = [name for name in names if not _SHARD.fullmatch(name)]
    if wrong:
        raise CheckpointError(f"{directory / INDEX} names the shard {wrong[0]!r:.100}; save the checkpoint again.")
    return [INDEX, *names]


def code_names(config: Mapping[str, Any]) -> list[str]:
    """Return the Python files that ``auto_map`` of a config names, but not those of other repositories."""
    return local_files([reference for _, reference in top_level_references(config)])


def checkpoint_names(directory: Path) -> list[str]:
    """Return the names of all files of a checkpoint except the card, in the order of the listing.

    The manifest (vbp_manifest.json) is not one of them: it is for ``--overwrite`` in the local folder. A reader of the
    repository has the hashes of the receipt and of the Hub, and the card that is pushed is not the local one.

    Raises:
        CheckpointError: A required file is missing.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a folder. Give the folder that `hf-vbp prune --output` wrote.")
    config = read_json(directory, CONFIG)
    names = [CONFIG, *weight_names(directory), *code_names(config)]
    names += [name for name in (*PROCESSORS, PLAN, RECIPE) if (directory / name).exists()]
    return [*names, RESULTS]


def exported_files(directory: Path, results: Mapping[str, Any]) -> list[PushFile]:
    """Return the exported files of a checkpoint that its results list, hashed.

    Raises:
        CheckpointError: There are none, one is missing, or one was changed after it was compared with the model.
    """
    recorded = {name: sha256 for row in results.get("exports", []) for name, sha256 in row["files"].items()}
    if not recorded:
        raise CheckpointError(
            f"{directory} has no exported files in its results. Write them with `hf-vbp export {directory}`, or push "
            "without --exports."
        )
    files = [PushFile.of(name, checked_path(directory, name, levels=2)) for name in recorded]
    changed = [file.path for file in files if file.sha256 != recorded[file.path]]
    if changed:
        raise CheckpointError(
            f"{', '.join(changed)} was changed after it was compared with the model; nothing was sent. Export it "
            "again with --overwrite."
        )
    return files


def checked_path(directory: Path, name: str, levels: int = 1) -> Path:
    """Return the path of a file of the checkpoint, if it is a regular file within the folder.

    Args:
        directory: The folder.
        name: Name of the file.
        levels: The most parts that the name may have.

    Raises:
        CheckpointError: It is missing, or the name or a symbolic link leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    path = directory / name
    hidden = any(part.startswith(".") or part == "/" for part in parts)
    if not 1 <= len(parts) <= levels or hidden or "\\" in name:
        raise CheckpointError(f"{name!r} is not the name of a file of a checkpoint; nothing was sent.")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing or is not a regular file: the checkpoint is not complete. Save it again."
        )
    if path.resolve() != directory.resolve() / name:
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}, outside of the folder; such files are never sent. "
            "Copy the file itself into the folder."
        )
    return path


def checkpoint_files(directory: Path) -> list[PushFile]:
    """Return the files of a checkpoint that a push sends, hashed, except the card.

    Raises:
        CheckpointError: The checkpoint is not complete, or a file is not a regular file.
    """
    return [PushFile.of(name, checked_path(directory, name)) for name in checkpoint_names(directory)]
