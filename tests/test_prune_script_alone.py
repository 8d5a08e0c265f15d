"""``scripts/prune.py`` in an environment with the packages of its header and nothing else (``make test-script``)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub
from tests.script_header import ROOT, SCRIPT

PYTHON = os.environ.get("HF_VBP_SCRIPT_PYTHON")
pytestmark = [
    pytest.mark.script,
    pytest.mark.skipif(PYTHON is None, reason="needs an environment of its own: make test-script"),
]


def run(command: list[str], folder: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_VBP_SOURCE")}
    if environment:
        kept.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_and_the_packages_of_the_header_are_enough(tmp_path: Path) -> None:
    python = str(PYTHON)
    # Without the checkout around it.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "temporary").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    found = run([python, "-c", "import importlib.util as u; print(u.find_spec('hf_vbp'))"], tmp_path)
    assert found.strip() == "None"
    own = {"HF_VBP_SOURCE": str(wheel), "TMPDIR": str(tmp_path / "temporary")}
    line = "scripts/prune.py sample --data sample --ratio 0.5 --output out"
    assert line in (ROOT / "docs" / "without_installing.md").read_text(encoding="utf-8")
    run([python, *line.split()], tmp_path, **own)
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "hf", token=hub.add_user("alice").token, **own)
        again = [python, *line.replace("--output out", "--limit 32 --output pushed --push alice/small").split()]
        assert "Pushed" in run(again, tmp_path, **environment)
        files = hub.repositories["alice/small"].files()
    assert files["model.safetensors"] == (tmp_path / "pushed" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").is_file()
    # The folder of the installation was deleted.
    assert not list((tmp_path / "temporary").glob("hf-vbp-*"))
