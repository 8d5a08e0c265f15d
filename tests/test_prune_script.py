"""The script that runs without an installation: its header, and its steps in real processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.cli._uv_script_header import parse_uv_script_header

from tests.loopback_hub import LoopbackHub
from tests.script_header import ROOT, SCRIPT, read_header


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    return read_header()


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[=<>]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_the_header_has_the_versions_that_the_suite_was_run_with(header: dict[str, Any]) -> None:
    known = {line.lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {entry.lower().replace("_", "-") for entry in header["dependencies"]} <= known
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert names(header["dependencies"]) == names(project["dependencies"])
    assert header["requires-python"] == project["requires-python"]


def test_the_header_starts_a_job(header: dict[str, Any]) -> None:
    job = parse_uv_script_header(SCRIPT.read_text(encoding="utf-8"))
    assert job is not None
    assert (job.flavor, job.secrets, job.timeout) == ("cpu-upgrade", ["HF_TOKEN"], "4h")
    # torch alone comes from the index of builds without CUDA.
    (index,) = header["tool"]["uv"]["index"]
    assert header["tool"]["uv"]["sources"] == {"torch": {"index": index["name"]}}
    assert index["explicit"] is True


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_VBP_SOURCE")}
    kept.pop("HF_HUB_OFFLINE" if environment else "", None)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.processes
def test_a_killed_run_continues_and_pushes(tmp_path: Path) -> None:
    work = tmp_path / "bucket"
    arguments = [str(SCRIPT), "sample", "--data", "sample", "--ratio", "0.5", "--work", str(work)]
    statistics = work / "statistics.safetensors"
    killed = start(arguments)
    while not statistics.exists():
        with pytest.raises(subprocess.TimeoutExpired):
            killed.wait(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    gathered = statistics.stat().st_mtime_ns
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "hf", token=hub.add_user("alice").token)
        output = end(start([*arguments, "--export", "onnx", "--push", "alice/small"], **environment))
        repository = hub.repositories["alice/small"]
    assert statistics.stat().st_mtime_ns == gathered
    assert repository.private
    assert "onnx/model.onnx" in repository.files()
    assert repository.files()["model.safetensors"] == (work / "pruned" / "model.safetensors").read_bytes()
    assert "Pushed" in output


def test_alone_it_asks_for_the_package(tmp_path: Path) -> None:
    copy = shutil.copy(SCRIPT, tmp_path / "prune.py")
    # -S: the package of the environment is not found either.
    process = start(["-S", str(copy), "sample", "--data", "sample", "--ratio", "0.5"])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Set HF_VBP_SOURCE to a wheel or an address" in output


def test_what_contradicts_itself_is_refused() -> None:
    process = start([str(SCRIPT), "sample", "--data", "sample", "--sweep", "0.1", "--push", "alice/small"])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--sweep writes no model" in output
