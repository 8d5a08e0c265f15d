"""The benchmark of the page, on the sample."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.export.web.helpers import chromium

ROOT = Path(__file__).parents[1]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(
    chromium() is None or find_spec("playwright") is None or find_spec("gradio") is None,
    reason="Chromium, playwright or gradio is not installed",
)
def test_a_row_for_everything_that_a_visitor_waits_for() -> None:
    command = [sys.executable, "-m", "benchmarks.page", "sample", "--moves", "2"]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    rows = {line[:28].strip(): float(line.split()[-2]) for line in ran.stdout.splitlines()}
    assert len(rows) == 6
    assert all(seconds > 0 for seconds in rows.values())
    assert rows["slider move, median"] <= rows["slider move, longest"]
