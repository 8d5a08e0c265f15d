"""The modeling file under older versions of transformers, in separate environments.

``HF_VBP_COMPAT_PYTHONS`` holds the interpreters, separated like ``PATH``; hf_vbp need not be installed there.
"""

import os
from pathlib import Path

import pytest

from tests.checkpoint.strangers import visit

PYTHONS = [python for python in os.environ.get("HF_VBP_COMPAT_PYTHONS", "").split(os.pathsep) if python]

pytestmark = pytest.mark.compat


@pytest.mark.skipif(not PYTHONS, reason="HF_VBP_COMPAT_PYTHONS names no interpreter (make test-compat does)")
@pytest.mark.parametrize("python", PYTHONS or ["none"])
def test_checkpoints_load_bit_for_bit_and_come_back(python: str, tmp_path: Path) -> None:
    print(f"transformers {visit(python, tmp_path)}")
