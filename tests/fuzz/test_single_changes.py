"""Every single change of a config, plan, statistics header or recipe is read, or refused with a short error."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="limits of CPU time and memory are set with setrlimit")
@pytest.mark.parametrize(("kind", "least"), [
    ("config", 300), ("structure", 200), ("checkpoint", 2000), ("plan", 600), ("statistics", 500), ("recipe", 900),
])  # fmt: skip
def test_every_single_change_is_read_or_refused(tmp_path: Path, kind: str, least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.single_changes", kind, str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    *failures, count = done.stdout.splitlines() or ["nothing was printed"]
    assert failures == []
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(count) >= least
