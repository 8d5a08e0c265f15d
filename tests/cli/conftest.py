"""Checkpoints, images and a command line that must succeed."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Ran, run, save_images, save_tiny


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    save_tiny(shelf / "model")
    save_images(shelf / "images", each=4)
    save_images(shelf / "labelled", each=2, seed=1)
    return shelf


@pytest.fixture
def hf_vbp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: Any) -> Ran:
        ran = run(list(arguments), capfd, monkeypatch)
        assert ran.code == 0, ran.err
        return ran

    return call
