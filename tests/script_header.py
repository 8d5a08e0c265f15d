"""The header of ``scripts/prune.py`` as the specification of inline metadata (PEP 723) reads it.

Run as a program it prints the dependencies, one a line, for ``pip install -r`` (``make test-script``).
"""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "prune.py"


def read_header() -> dict[str, Any]:
    (block,) = re.findall(r"(?m)^# /// script$\s((?:^#(?:| .*)$\s)+)^# ///$", SCRIPT.read_text(encoding="utf-8"))
    return tomllib.loads("".join(line[2:] or "\n" for line in block.splitlines(keepends=True)))


if __name__ == "__main__":
    print("\n".join(read_header()["dependencies"]))
