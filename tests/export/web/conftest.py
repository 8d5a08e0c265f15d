"""The sample as a page, and a real browser that shows it. Nothing but the loopback interface is reached."""

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from hf_vbp.errors import MissingPackageError
from hf_vbp.export.web import fetch_packages
from tests.export.web.helpers import CHROMIUM_ARGUMENTS, chromium, export_sample, served, unavailable

if "HF_VBP_BROWSER_TESTS" in os.environ:
    # The modules of tests would be skipped without it.
    import playwright.sync_api  # noqa: F401


@pytest.fixture(scope="session")
def program() -> str:
    """The path of Chromium. Skips where a browser cannot be started; ``make test-browser`` must not skip."""
    found = chromium()
    reasons = ["Chromium is not installed; make test-browser installs it"] if found is None else []
    reasons += [f"{name} is not installed" for name in ("playwright", "onnxruntime") if find_spec(name) is None]
    if found is None or reasons:
        unavailable("; ".join(reasons))
    assert found is not None
    return found


@pytest.fixture(scope="session")
def exported(program: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, exported with a page; made once for all processes of pytest-xdist. Not to be changed.

    Skips where transformers.js is neither in the cache nor to be had; ``make test-browser`` must not skip.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported-sample"
    # Without a network npm would otherwise wait for minutes.
    os.environ.setdefault("npm_config_fetch_retries", "0")
    with FileLock(f"{folder}.lock"):
        try:
            fetch_packages()
        except MissingPackageError as error:
            unavailable(str(error))
        if not folder.exists():
            new = folder.with_name("unfinished-exported-sample")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            export_sample(new)
            new.rename(folder)
    return folder


@pytest.fixture(scope="session")
def site(exported: Path) -> Path:
    """The folder with the page."""
    return exported / "exported"


@pytest.fixture(scope="session")
def reference(exported: Path) -> dict[str, Any]:
    """Picture to model to precision to class to Python's score."""
    scores: dict[str, Any] = json.loads((exported / "scores.json").read_text(encoding="utf-8"))
    return scores


@pytest.fixture(scope="module")
def browser(program: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=list(CHROMIUM_ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as url:
        yield url


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A new profile of the browser. All its requests must stay on this machine."""
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    requests: list[str] = []
    made.on("request", lambda request: requests.append(request.url))
    yield made
    made.close()
    assert requests
    foreign = [url for url in requests if not url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"))]
    assert not foreign


@pytest.fixture
def page(context: Any) -> Iterator[Any]:
    """A page on which no script fails."""
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    assert not errors
