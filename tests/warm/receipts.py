"""The process of a receipt as a fork of :mod:`tests.warm.server`.

It differs from that of users in one thing: torch and transformers were imported already, from an isolated home. Tests
of the process itself are marked ``real_process``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint import receipt
from hf_vbp.checkpoint.isolation import copy_cached_code, offline_environment
from hf_vbp.checkpoint.remote_code import RemoteCode
from hf_vbp.errors import CheckpointError


class WarmProcesses:
    """Runs the jobs of receipts in forks of one process, which starts at the first job."""

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory()
        self._server: subprocess.Popen[str] | None = None
        self._real = receipt._run

    def run(self, job_folder: Path, python: Any, code: RemoteCode) -> list[dict[str, Any]]:
        """Do what the function of the same name in :mod:`hf_vbp.checkpoint.receipt` does."""
        if python is not None or sys.platform != "linux":
            return self._real(job_folder, python, code)
        environment = offline_environment(job_folder)
        copy_cached_code(code.repositories, environment)
        job = {
            "script": str(job_folder / "fresh_process.py"),
            "arguments": [str(job_folder / "job.json")],
            "folder": str(job_folder),
            "environment": environment,
        }
        returned, result = self._ask(job), job_folder / "result.json"
        if returned or not result.is_file():
            error = (job_folder / "stderr").read_text(encoding="utf-8")
            raise CheckpointError(
                f"The process that loaded the checkpoint ended with code {returned}: {error[-2000:]}"
            )
        found: list[dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
        return found

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            # A process that a test forked may hold the pipe open, so the end of the input is not enough.
            self._server.kill()
            self._server.communicate()
        self._home.cleanup()

    def _ask(self, job: dict[str, Any]) -> int:
        if self._server is None or self._server.poll() is not None:
            home = Path(self._home.name).resolve()
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("server.py")), str(home)],
                env=offline_environment(home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._server.stdout.readline()
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())
