"""Run the commands of the one-shot recipe, word for word, on the built-in sample."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import hf_vbp

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "one-shot" / "README.md"


def command(name: str) -> list[str]:
    """Return the words of the command of the recipe that begins with ``name``, its model and images replaced."""
    text = RECIPE.read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line.strip() for line in text.splitlines() if line.startswith(f"    {name}"))
    words = shlex.split(re.sub(r"IMAGENET/\w+", "sample", line))
    return [hf_vbp.sample_model_path() if word.startswith("facebook/") else word for word in words]


@pytest.mark.processes
def test_the_comparison_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    from benchmarks import accuracy

    monkeypatch.chdir(tmp_path)
    words = command("python -m benchmarks.accuracy")
    accuracy.main([*words[3:], "--evaluation-limit", "64"])
    with (tmp_path / words[-1] / "accuracy.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4
    assert {row["criterion"] for row in rows} == {"variance", "obs"}
    assert all(0 <= float(row["low"]) <= float(row["top1"]) <= float(row["high"]) <= 1 for row in rows)
    assert (tmp_path / words[-1] / "accuracy.png").stat().st_size > 1000


@pytest.mark.processes
def test_one_model_is_pruned_and_saved(tmp_path: Path) -> None:
    words = command("hf-vbp prune")
    ran = subprocess.run(
        [sys.executable, "-m", "hf_vbp", *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (tmp_path / words[-1] / "vbp_results.json").is_file()
