"""Run the examples of the docs that need more than Python: shell commands, a pruned checkpoint, a Hub, recipes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_vbp.workflow.finetune.fields import merge
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.yaml_text import parse_yaml
from tests.cli.helpers import run
from tests.loopback_hub import LoopbackHub

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: str, *kinds: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the blocks of a page, in their order; the kind of a plain block is empty."""
    text = (ROOT / page).read_text(encoding="utf-8")
    yield from ((kind, block) for kind, block in _BLOCK.findall(text) if kind in kinds)


def program(page: str) -> str:
    """Return the blocks of a page as one program: the Python in one namespace, each shell block as a child process."""
    parts = ["import subprocess"]
    for kind, block in blocks(page, "bash", "python"):
        parts.append(block if kind == "python" else f"subprocess.run(['bash', '-euc', {block!r}], check=True)")
    return "\n".join(parts)


def run_program(text: str, folder: Path, environment: dict[str, str]) -> str:
    commands = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment = {**environment, "PATH": commands, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-1000:] + ran.stderr[-3000:]
    return ran.stdout


@pytest.mark.processes
def test_the_page_about_the_hub_runs(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        me = hub.add_user("me")
        shown = run_program(program("docs/hub.md"), tmp_path, hub.environment(tmp_path / "home", me.token))
        assert me.token not in shown
        # One push by the command, which the Python then finds unchanged, and one by Trainer.
        commits = {name: len(repository.commits) for name, repository in hub.repositories.items()}
        assert commits == {"me/pruned-vit": 2, "me/tuned-vit": 2}
        assert "Dry run: all checks passed" in shown
        assert "Nothing changed" in shown
        results = json.loads(hub.repositories["me/tuned-vit"].files()["vbp_results.json"])
    assert results["finetuning"]["steps"] == 2


@pytest.mark.processes
def test_the_page_about_checkpoints_runs(tmp_path: Path) -> None:
    (_, example), *_ = blocks("README.md", "python")
    told = "\nassert [row['max_abs_difference'] for row in receipt.to_list()] == [0.0, 0.0]"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run_program(example + program("docs/checkpoints.md") + told, tmp_path, environment)
    config = json.loads((tmp_path / "padded" / "config.json").read_text())
    assert "vbp" not in config
    assert isinstance(config["intermediate_size"], int)


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
def test_recipes_in_the_docs_are_valid(page: str) -> None:
    for _, text in blocks(page, "yaml"):
        recipe = make_recipe(merge(parse_yaml(text, page), {"training": {"use_cpu": True}}))
        assert recipe.arguments().learning_rate == 1.5e-5


def test_shell_blocks_are_run() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]]
    assert {page for page in pages if [*blocks(page, "bash")]} == {"docs/hub.md"}


@pytest.mark.processes
def test_every_command_of_the_guide_runs_on_the_sample(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (listed,) = (block for _, block in blocks("docs/guide.md", "") if "hf-vbp inspect" in block)
    ran = []
    for line in listed.splitlines():
        # A comment follows after two spaces, or after the last option.
        command = re.sub(r"^(hf-vbp \w+) +(?=[A-Z])", r"\1 ", line)
        words = re.split(r"(?<=\S) {2,}(?=[a-z])|(?<=DIR) (?=[a-z])", command)[0].split()
        name = words[1]
        if name in ("push", "audit", "ui"):
            continue  # docs/hub.md and tests/ui run them.
        output = f"{name}-{len(ran)}" if name != "stats" else "statistics.safetensors"
        given = {"MODEL": "sample", "DATA": "sample", "FILE": "statistics.safetensors", "DIR": "prune-3"}
        given["RECIPE.yaml"] = str(ROOT / "recipes/sample/recipe.yaml")
        words = [given.get(word, word) for word in words]
        if "--output" in words:
            words[words.index("--output") + 1] = output
        if name == "finetune":
            words += ["training.max_steps=1", "training.use_cpu=true"]
        if name in ("prune", "sweep", "evaluate", "finetune"):
            words += ["data.train.limit=16", "data.evaluation.limit=16"] if name == "finetune" else ["--limit", "16"]
        done = run(words[1:], capfd, monkeypatch)
        assert done.code == 0, (words, done.err)
        ran.append(name)
    expected = ["inspect", "stats", "plan", "prune", "sweep", "sweep", "evaluate"]
    expected += ["finetune", "finetune", "recipes", "export"]
    assert ran == expected
