"""Adds the hash of the modeling file to the list of known versions: ``python scripts/add_modeling_hash.py``.

Run it after every change of ``modeling_hf_vbp.py``. With ``--history`` it adds every version in Git's history too.
"""

import argparse
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from hf_vbp.checkpoint.remote_code import hash_of
from hf_vbp.files.layout import MODELING_FILE, MODELING_HASHES
from hf_vbp.modeling import modeling_hf_vbp

ROOT = Path(__file__).parents[1]
LIST = Path(modeling_hf_vbp.__file__).with_name(MODELING_HASHES)


def committed_versions(root: Path) -> list[tuple[bytes, str]]:
    """Return (content, date) of every committed version of the modeling file, under all its paths."""
    log = _git(root, "log", "--format=%H %cs", "--reverse", "--", f":(glob)**/{MODELING_FILE}").decode()
    versions = []
    for commit, date in (line.split() for line in log.splitlines()):
        names = _git(root, "ls-tree", "-r", "--name-only", "-z", commit).decode().split("\0")
        for name in names:
            if Path(name).name == MODELING_FILE:
                versions.append((_git(root, "show", f"{commit}:{name}"), date))
    return versions


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True).stdout


def add(content: bytes, date: str, path: Path = LIST) -> bool:
    """Append the hash of a version with its date, and return whether it was missing."""
    digest = hash_of(content)
    if digest in path.read_text(encoding="utf-8"):
        return False
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{digest}  {date}\n")
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Add the hash of the modeling file to the list of known versions.")
    parser.add_argument("--history", action="store_true", help="add every committed version too")
    versions = committed_versions(ROOT) if parser.parse_args().history else []
    versions.append((Path(modeling_hf_vbp.__file__).read_bytes(), f"{datetime.now(UTC):%Y-%m-%d}"))
    added = [add(content, date) for content, date in versions]
    print(f"{LIST}: {sum(added)} added.")
