"""Classify the code that loading a checkpoint can run: the modeling file of this package, or foreign code.

Only reads files: nothing of the checkpoint is imported or executed. The modeling file is recognized by its
sha256, which ``modeling_hashes.txt`` lists for every version of it. Everything else is foreign.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from hf_vbp.errors import CheckpointError
from hf_vbp.files.layout import ADAPTER, CONFIG, CUSTOM_GENERATE, MODELING_FILE, MODELING_HASHES, MODELING_MODULE
from hf_vbp.files.text import read_small_text

# Every file in which transformers looks for the name of a class to import.
CONFIG_FILES = re.compile(r"[\w.-]*config\.json")
# Read for a processor or a tokenizer, never for the model.
_NOT_OF_THE_MODEL = re.compile(r"((video_)?pre)?processor_config\.json|tokenizer_config\.json")
_OWN_REFERENCE = re.compile(rf"{MODELING_MODULE}\.[A-Za-z]\w*")
_NAMES_OF_LABELS = ("id2label", "label2id")
_LARGEST_FILE = 1 << 20
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One way in which a checkpoint can run foreign code.

    Attributes:
        file: The file of the checkpoint that holds or names the code.
        text: The finding as a phrase, with the name of the file.
    """

    file: str
    text: str


@dataclass(frozen=True)
class RemoteCode:
    """The code that loading a checkpoint can run.

    Attributes:
        files: Python files of the folder that ``auto_map`` of ``config.json`` names, present or not.
        repositories: Other repositories whose code ``auto_map`` of ``config.json`` names.
        names_model: Whether ``auto_map`` of ``config.json`` names a class for the model.
        findings: One per way to run foreign code; empty where the code, if any, is the package's own.
    """

    files: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    names_model: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def summary(self) -> str:
        """The findings as one line of bounded length."""
        shown = [finding.text for finding in self.findings[:_SHOWN]]
        more = len(self.findings) - len(shown)
        return "; ".join([*shown, f"and {more} more"] if more else shown)

    def of_model(self) -> "RemoteCode":
        """Return the same without the findings that concern only a processor or a tokenizer."""
        findings = tuple(item for item in self.findings if not _NOT_OF_THE_MODEL.fullmatch(item.file))
        return RemoteCode(self.files, self.repositories, self.names_model, findings)


def inspect_code(directory: str | os.PathLike[str]) -> RemoteCode:
    """Classify the code that loading the checkpoint in a folder can run, without running any.

    Raises:
        CheckpointError: ``config.json`` cannot be read.
    """
    folder = Path(directory)
    references = list(top_level_references(_read(folder / CONFIG)))
    findings = [*_own_file(folder), *_configs(folder)]
    if (folder / CUSTOM_GENERATE).exists():
        findings.append(Finding(CUSTOM_GENERATE, f"{CUSTOM_GENERATE} replaces the method generate"))
    return RemoteCode(
        files=tuple(local_files(reference for _, reference in references)),
        repositories=tuple(sorted({text.partition("--")[0] for _, text in references if "--" in text})),
        names_model=any(name.startswith("AutoModel") for name, _ in references),
        findings=tuple(findings),
    )


def refuse_foreign_code(directory: str | os.PathLike[str], code: RemoteCode, trust_remote_code: bool) -> None:
    """Refuse foreign code that the user did not allow.

    Args:
        directory: The folder of the checkpoint.
        code: The result of :func:`inspect_code`.
        trust_remote_code: Whether the user allowed it.

    Raises:
        CheckpointError: There is foreign code, and it is not allowed.
    """
    if code.findings and not trust_remote_code:
        raise CheckpointError(
            f"{directory} can run code that is not part of hf_vbp: {code.summary}. Nothing was run. Read the code; "
            "to run it, in a process without access tokens, pass trust_remote_code=True (--trust-remote-code)."
        )


def top_level_references(config: Any) -> Iterator[tuple[str, str]]:
    """Yield (auto class, reference) for ``auto_map`` at the top of a config; malformed values are left out."""
    auto_map = config.get("auto_map") if isinstance(config, Mapping) else None
    for name, reference in _references(auto_map):
        if isinstance(reference, str):
            yield name, reference


def local_files(references: Iterator[str] | Sequence[str]) -> list[str]:
    """Return the names of the Python files of the folder itself among references of an ``auto_map``, sorted."""
    return sorted({reference.split(".")[0] + ".py" for reference in references if "--" not in reference})


def hash_of(content: bytes) -> str:
    """Return the sha256 of a modeling file, independent of the line ends that Git or a download gave it."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


@cache
def known_hashes() -> frozenset[str]:
    """Return the sha256 of every version of the modeling file."""
    lines = resources.files("hf_vbp.modeling").joinpath(MODELING_HASHES).read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line.strip())


def _own_file(folder: Path) -> Iterator[Finding]:
    path = folder / MODELING_FILE
    if not path.is_file():
        return
    try:
        digest = hash_of(path.read_bytes()) if path.stat().st_size <= _LARGEST_FILE else "not computed, too large"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Restore it, or save the checkpoint again.") from error
    if digest not in known_hashes():
        yield Finding(
            MODELING_FILE,
            f"{MODELING_FILE} is not a version of the file that this hf_vbp knows (sha256 {digest}); if a newer "
            "hf_vbp wrote it, upgrade",
        )


def _configs(folder: Path) -> Iterator[Finding]:
    names = sorted(path.name for path in folder.iterdir() if CONFIG_FILES.fullmatch(path.name) and path.is_file())
    for name in names:
        if name == ADAPTER:
            yield Finding(name, f"{name} loads an adapter, and can load another base model with its code")
            continue
        try:
            content = _read(folder / name)
        except CheckpointError:
            if name == CONFIG:
                raise
            yield Finding(name, f"{name} cannot be read, so the code that it names is unknown")
            continue
        for text in _foreign(content):
            yield Finding(name, f"{name}: {text}")


def _foreign(content: Any) -> Iterator[str]:
    for path, key, value in _items(content):
        where = _show(path + key)
        if key == "auto_map":
            for name, reference in _references(value):
                if not isinstance(reference, str):
                    yield f"{where} holds {_show(reference)} for {_show(name)}, which is not a class reference"
                elif "--" in reference:
                    yield f"{where} names code of another repository for {_show(name)}: {_show(reference)}"
                elif not _OWN_REFERENCE.fullmatch(reference):
                    yield f"{where} names {_show(reference)} for {_show(name)}, expected a class of {MODELING_FILE}"
        elif key == "custom_pipelines" and value:
            yield f"{where} names the class of a pipeline"
        elif key.endswith(("attn_implementation", "experts_implementation")) and "/" in json.dumps(value):
            yield f"{where} names a kernel of another repository: {_show(value)}"


def _items(content: Any) -> Iterator[tuple[str, str, Any]]:
    # Iterative, and over every level: composite configs hold those of their towers.
    stack = [("", content)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                yield path, key, item
                if key not in _NAMES_OF_LABELS:
                    stack.append((f"{path}{key}.", item))
        elif isinstance(value, list):
            stack.extend((path, item) for item in value)


def _references(value: Any) -> Iterator[tuple[str, Any]]:
    # transformers takes a string, a pair (tokenizers) or a mapping by backend (processors), each under a class name.
    stack = [("", value)]
    while stack:
        name, item = stack.pop()
        if isinstance(item, dict):
            stack.extend((name or str(key), inner) for key, inner in reversed(item.items()))
        elif isinstance(item, list | tuple):
            stack.extend((name, inner) for inner in reversed(item))
        elif item is not None:
            yield name, item


def _show(value: Any) -> str:
    # The text comes from the checkpoint and is printed on terminals: no control characters, bounded length.
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(path: Path) -> Any:
    try:
        return json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); expected the config of a checkpoint.") from error
