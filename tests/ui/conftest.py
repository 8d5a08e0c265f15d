"""A real server and a real headless browser. Tests that need them skip where they are not installed."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.export.web.helpers import CHROMIUM_ARGUMENTS, chromium
from tests.loopback_hub import LoopbackHub, User
from tests.ui.visitor import Visitor


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium. Skips where it cannot be started; ``make test-browser`` must not skip."""
    program = chromium()
    reasons = ["Chromium is not installed; make test-browser installs it"] if program is None else []
    reasons += [f"{name} is not installed" for name in ("playwright", "gradio") if find_spec(name) is None]
    if reasons:
        (pytest.fail if "HF_VBP_BROWSER_TESTS" in os.environ else pytest.skip)("; ".join(reasons))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=list(CHROMIUM_ARGUMENTS))
        yield launched
        launched.close()


class Server:
    """``hf-vbp ui`` in a process of its own, with its log."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str) -> None:
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
