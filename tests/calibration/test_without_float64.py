"""Pruning on a device without float64, such as MPS. Simulated, see :mod:`tests.without_float64`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as registration


@pytest.mark.skipif(
    not hasattr(registration, "_setup_privateuseone_for_python_backend"), reason="this torch cannot simulate a device"
)
def test_nothing_is_computed_in_float64_on_the_device() -> None:
    command = [sys.executable, "-m", "tests.without_float64"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.stdout == "done\n", done.stderr[-3000:]
