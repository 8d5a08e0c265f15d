"""Installed distributions with entry points, made in a folder on the path."""

import sys
from pathlib import Path

import pytest


def write_distribution(folder: Path, group: str, name: str, value: str, distribution: str = "fake") -> None:
    """Write the metadata of a distribution with one entry point."""
    metadata = folder / f"{distribution}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    *,
    installed: str,
    name: str = "installed",
    distribution: str = "fake",
    **modules: str,
) -> None:
    """Put a distribution with one entry point and some modules, given by their source, on the path for one test."""
    write_distribution(folder, group, name, installed, distribution)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
        # A module of an earlier test must not be found instead.
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)
