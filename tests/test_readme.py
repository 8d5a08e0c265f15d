"""Run the examples of README and docs, word for word, in a fresh process in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(page: str) -> str:
    """Return the Python of a page as one program, in the order of its blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))


# The pages, each with the checkpoints that its examples write and the method that these record.
PAGES = {
    "README.md": {"pruned": ("obs", "linear")},
    "docs/guide.md": {"pruned": ("obs", "linear")},
    "docs/extending.md": {
        "mean-square": ("mean-square", "mean"),
        "swin-pruned": ("obs", "linear"),
        "every-second": ("obs", "linear"),
    },
    "docs/adapters.md": {},
    "docs/beyond_the_paper.md": {},
    "docs/data.md": {},
    "docs/evaluation.md": {},
    "docs/output_distance.md": {},
    "docs/statistics.md": {},
    "docs/token_merging.md": {},
}
# Pages that tests/test_docs.py runs: they need a checkpoint, a Hub, or shell commands.
ELSEWHERE = {"docs/checkpoints.md", "docs/hub.md", "docs/deploy.md"}


@pytest.mark.parametrize(
    "page", [page if page == "README.md" else pytest.param(page, marks=pytest.mark.processes) for page in PAGES]
)
def test_every_python_block_runs(page: str, tmp_path: Path) -> None:
    assert python_blocks(page)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", python_blocks(page)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    written = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/vbp_results.json")}
    methods = {name: (found["plan"]["criterion"], found["plan"]["compensation"]) for name, found in written.items()}
    assert methods == PAGES[page]
    # Also where an adapter of the page is not registered: in the processes that verified the checkpoints.
    for name, found in written.items():
        ways = {row["way"]: row["max_abs_difference"] for row in found["receipt"]}
        assert ways.get("import") == 0.0, name
        assert set(ways.values()) == {0.0}, name
    if page == "docs/extending.md":
        plan = json.loads((tmp_path / "every-second" / "plan.json").read_text())
        assert [site["name"] for site in plan["sites"]] == [f"vit.layers.{index}.mlp" for index in (0, 2, 4)]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
def test_the_installation_works_word_for_word(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```\n(REPOSITORY=.*?)```", text, flags=re.DOTALL)
    lines = block.replace("URL_OF_THIS_REPOSITORY", shlex.quote(str(ROOT)))
    assert lines.count(str(ROOT)) == 1
    # pip of this environment, into a folder, without the network.
    options = f"--no-index --no-deps --no-build-isolation --quiet --target {tmp_path / 'site'}"
    pip = f'pip() {{ {shlex.quote(sys.executable)} -m pip "$@" {options}; }}\nset -e\n'
    subprocess.run(["sh", "-c", pip + lines], cwd=tmp_path, check=True, timeout=300)
    shown = subprocess.run(
        [sys.executable, "-m", "hf_vbp", "--version"],
        cwd=tmp_path / "site", env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.startswith("hf-vbp ")
    assert (tmp_path / "site/hf_vbp/sample/model.safetensors").is_file()


def test_every_python_block_of_the_docs_is_run_or_listed() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    assert {page for page in pages if python_blocks(page)} == PAGES.keys() | ELSEWHERE


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
