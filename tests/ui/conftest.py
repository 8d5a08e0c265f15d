"""A real server and a real headless browser. Tests that need them skip where they are not installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import LoopbackHub, User
from tests.ui.visitor import Visitor

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
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=environment, cwd=log.parent, stdout=subprocess.PIPE, stderr=errors, text=True
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
        assert self.process.stdout is not None
        self.process.stdout.close()


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
    (home / "tmp").mkdir()
    more = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(home / "tmp")}
    more |= {"HF_VBP_SCRIPT": "https://example.org/prune.py", "HF_VBP_SOURCE": "https://example.org/hf_vbp.whl"}
    # Gradio then forgets closed tabs after a second instead of an hour.
    more["GRADIO_IS_E2E_TEST"] = "1"
    running = Server(hub.environment(home / "hf", token=alice.token, **more), home / "server.log")
    yield running
    assert list((home / "tmp").glob("hf-vbp-ui-*"))
    running.close()
    assert not list((home / "tmp").glob("hf-vbp-ui-*"))
    assert alice.token not in running.log.read_text()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[..., Visitor]]:
    """Open the page as another visitor; all of them leave at the end."""
    visitors: list[Visitor] = []

    def open_page(**options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        visitors.append(Visitor(context, server.url))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.leave()


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    return visit()
