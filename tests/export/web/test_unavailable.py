"""``make test-browser`` fails where it would otherwise pass without a browser or transformers.js."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.web.helpers import ROOT, unavailable


def test_what_is_unavailable_is_skipped_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_VBP_BROWSER_TESTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no network"):
        unavailable("no network")
    monkeypatch.setenv("HF_VBP_BROWSER_TESTS", "1")
    with pytest.raises(pytest.fail.Exception, match="no network"):
        unavailable("no network")


def test_packages_that_cannot_be_had_fail_the_browser_tests(tmp_path: Path) -> None:
    """The fixture, in a process whose cache is empty and whose registry does not answer."""
    pytest.importorskip("playwright.sync_api")
    from tests.export.web import conftest as fixtures

    code = (
        "import pytest\n"
        f"from {fixtures.__name__} import *\n"
        "@pytest.fixture(scope='session')\ndef program(): return 'chromium'\n"
        "def test(exported): pass\n"
    )
    (tmp_path / "test_one.py").write_text(code)
    environment = {
        **os.environ, "HF_VBP_BROWSER_TESTS": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT),
        "npm_config_registry": "http://127.0.0.1:9", "npm_config_fetch_retries": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_one.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "transformers" in ran.stdout
    assert "1 error" in ran.stdout
