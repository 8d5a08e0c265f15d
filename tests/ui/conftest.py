"""A real server and a real headless browser. Tests that need them skip where they are not installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import LoopbackHub, User

CHROMIUM = os.environ.get("HF_VBP_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium; HF_VBP_CHROMIUM names another one")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Server:
    """``hf-vbp ui`` in a process of its own, with its log."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str) -> None:
        pytest.importorskip("gradio", reason="gradio is not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "hf_vbp", "ui", "--port", str(port), *options]
        # The current folder is not the repository: whatever the page reads there would be another's.
        self.process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, log.read_text()
        self.url = f"http://127.0.0.1:{port}/"

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="session")
def alice(hub: LoopbackHub) -> User:
    return hub.add_user("alice")


@pytest.fixture(scope="session")
def server(hub: LoopbackHub, alice: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("ui")
    environment = hub.environment(home / "hf", token=alice.token, PYTHONPATH=str(Path(__file__).parents[2]))
    running = Server({**environment, "HF_VBP_SCRIPT": "https://example.org/prune.py"}, home / "server.log")
    yield running
    running.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.goto(server.url)
    yield opened
    context.close()
