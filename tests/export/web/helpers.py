"""A small web server of one folder, and the browser."""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).parents[3]
# A camera that shows a green picture; no requests of the browser itself.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-fake-device-for-media-stream",
)  # fmt: skip
PATIENCE = 60_000


def chromium() -> str | None:
    """The path of Chromium, where it is installed."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


def unavailable(reason: str) -> NoReturn:
    """Skip a test that cannot run here; ``make test-browser`` must not skip, so there it fails."""
    (pytest.fail if "HF_VBP_BROWSER_TESTS" in os.environ else pytest.skip)(reason)


class _Quiet(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, more_headers: Mapping[str, str], **kwargs: Any) -> None:
        self.more_headers = more_headers
        super().__init__(*args, **kwargs)

    def end_headers(self) -> None:
        for name, value in self.more_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def served(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a folder on the loopback interface, as ``python -m http.server`` does; yields the address.

    Args:
        folder: The folder.
        headers: Headers that are added to every answer.
    """
    handler = functools.partial(_Quiet, directory=str(folder), more_headers=headers or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def export_sample(folder: Path, *model: str) -> None:
    """Run export_sample.py in a child process, because the exporters print and warn."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.export.web.export_sample", str(folder), *model],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors #rrggbb, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def color_schemes(css: str) -> list[dict[str, str]]:
    """The variables of each :root block of a style sheet that are colors."""
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
