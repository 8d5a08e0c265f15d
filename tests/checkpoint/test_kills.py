"""A checkpoint that is overwritten by a process that is killed: the old one or the new one, and no remains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_vbp.checkpoint.placing import exchange

SCRIPT = Path(__file__).with_name("kill_points.py")


@pytest.mark.processes
@pytest.mark.parametrize("how", ["exchange", "renames", "files"])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new(tmp_path: Path, how: str) -> None:
    if how == "exchange":
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        if not exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this file system does not exchange folders")
    command = [sys.executable, "-m", "tests.checkpoint.kill_points", str(tmp_path / "work"), how]
    done = subprocess.run(command, cwd=SCRIPT.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = json.loads(done.stdout)
    assert len(attempts) > 10
    assert [attempt["code"] for attempt in attempts] == [-9] * (len(attempts) - 1) + [0]
    # In one step there is always a checkpoint; in several, a missing config.json shows that there is none.
    allowed = {"old", "new"} if how == "exchange" else {"old", "new", "none"}
    assert {attempt["after"] for attempt in attempts} <= allowed
    assert {"old", "new"} <= {attempt["after"] for attempt in attempts}
    for attempt in attempts:
        # The next process restores the output and removes the remains, also where it then refuses the folder.
        assert attempt["settled"] in ("old", "new"), attempt
        assert attempt["last"] == 0, done.stderr[-3000:]
        assert (attempt["again"], attempt["last"], attempt["end"]) == (0, 0, "new"), attempt
        assert attempt["left"] == [], attempt
