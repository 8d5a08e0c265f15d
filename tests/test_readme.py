"""Run the examples of README and guide, word for word, in a fresh process in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> str:
    """Return the Python of a page as one program, in the order of its blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_every_python_block_runs(page: str, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", python_blocks(page)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "pruned" / "vbp_results.json").is_file()


def test_every_command_of_the_guide_exists() -> None:
    named = set(re.findall(r"^hf-vbp (\S+)", (ROOT / "docs/guide.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-m", "hf_vbp", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named
    assert all(command in shown for command in named)


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
)
def test_links_have_a_target(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
