"""Commands that are ended by a signal at any operation: the old output or the new one is there, whole."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("commands", "points"), [(("plan", "stats", "prune"), 7), (("finetune",), 5)])
def test_a_signal_at_any_operation_leaves_the_old_or_the_new(
    tmp_path: Path, commands: tuple[str, ...], points: int
) -> None:
    script = [sys.executable, "-m", "tests.cli.kill_commands", str(tmp_path / "work"), str(points), *commands]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    for command in commands:
        mine = [attempt for attempt in attempts if attempt["command"] == command]
        assert (mine[0]["code"], mine[0]["after"], mine[0]["left"]) == (0, "new", [])
        assert len(mine) == points + 1
        # The first operations come before the output is replaced, the last ones after it.
        assert {"old", "new"} == {attempt["after"] for attempt in mine}
        for attempt in mine[1:]:
            if attempt["signal"] == signal.SIGKILL:
                assert attempt["code"] == -signal.SIGKILL, attempt
            elif attempt["after"] == "old":
                # SIGTERM cleans up; the exit code says that the command did not end by itself.
                assert attempt["code"] == 128 + signal.SIGTERM, attempt
        for attempt in mine:
            if attempt["signal"] != signal.SIGKILL:
                # A model that was trained already is kept on purpose.
                assert set(attempt["left"]) <= ({"out.unverified"} if command == "finetune" else set()), attempt
            # What a killed process left does not hinder the next run, which removes it.
            assert (attempt["again"], attempt["end"], attempt["left_at_the_end"]) == (0, "new", []), attempt
