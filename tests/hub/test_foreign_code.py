"""Pushing and auditing run foreign code only when it is allowed, and then without the token of the user."""

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.helpers import run
from tests.foreign_code import TOKEN, change_json, point_elsewhere, put_in_cache, spy
from tests.hub.conftest import Site
from tests.hub.helpers import Client
from tests.hub.test_push import error_of
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.repository import Entry

NAME = "alice/pruned-vit"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that foreign code writes when it runs."""
    return tmp_path / "marker.json"


@pytest.fixture(params=["changed file", "other repository"])
def foreign(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path: Path, marker: Path, site: Site
) -> Iterator[Path]:
    """A checkpoint whose code is not ours; the code of the other repository is in the user's cache."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    cached = put_in_cache(site.home / "hub", marker)
    (site.home / "token").write_text(TOKEN)
    if request.param == "changed file":
        (folder / "modeling_hf_vbp.py").write_text(spy(marker))
    else:
        point_elsewhere(folder)
    yield folder
    (site.home / "token").unlink()
    shutil.rmtree(cached)


def assert_no_token(marker: Path, client: Client) -> None:
    seen = json.loads(marker.read_text())
    assert (seen["token"], seen["files"]) == (None, {})
    assert client.token is not None
    assert client.token not in marker.read_text()
    assert TOKEN not in marker.read_text()


def test_a_push_refuses_foreign_code(client: Client, xet_hub: LoopbackHub, foreign: Path, marker: Path) -> None:
    for dry_run in (False, True):
        answer = client.push(foreign, NAME, check_load=True, dry_run=dry_run)
        assert "is not part of hf_vbp" in error_of(answer)
        assert "Nothing was run" in error_of(answer)
    assert not marker.exists()
    assert xet_hub.log == []


def test_a_push_that_loads_nothing_points_it_out(client: Client, foreign: Path, marker: Path) -> None:
    answer = client.push(foreign, NAME, dry_run=True)
    assert [remark for remark in answer["remarks"] if remark.startswith("Foreign code: ")]
    assert not marker.exists()


@pytest.mark.processes
def test_a_push_runs_allowed_code_without_the_token(client: Client, foreign: Path, marker: Path) -> None:
    answer = client.push(foreign, NAME, check_load=True, dry_run=True, trust_remote_code=True)
    assert answer["status"] == "dry_run", answer
    assert_no_token(marker, client)


def publish(client: Client, hub: LoopbackHub, checkpoint: Path, folder: Path) -> None:
    """Push an honest checkpoint, then change its files to those of a folder, as a stranger could."""
    assert client.push(checkpoint, NAME)["status"] == "pushed"
    repository = hub.repositories[NAME]
    changed = {name: Entry((folder / name).read_bytes()) for name in ("config.json", "modeling_hf_vbp.py")}
    repository.commit("refs/heads/main", {**repository.head.files, **changed}, "edit", "", "alice")


def audit(client: Client, **options: Any) -> tuple[bool, dict[str, str]]:
    """Return whether an audit passed, and name to line of its checks."""
    answer = client.ask("audit", repo_id=NAME, options=options)
    assert "lines" in answer, answer
    return answer["passed"], {line[11:].partition(":")[0]: line.strip() for line in answer["lines"][1:]}


def test_an_audit_reports_foreign_code(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, foreign: Path, marker: Path
) -> None:
    publish(client, xet_hub, checkpoint, foreign)
    passed, checks = audit(client)
    assert not passed
    assert checks["code"].startswith("FAILED   code: foreign: ")
    assert checks["loading"].startswith("skipped  loading: not run")
    assert not marker.exists()


def test_an_audit_runs_allowed_code_without_the_token(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, foreign: Path, marker: Path
) -> None:
    publish(client, xet_hub, checkpoint, foreign)
    _, checks = audit(client, trust_remote_code=True)
    assert checks["code"].startswith("skipped  code: foreign: ")
    assert checks["loading by remote_code"].startswith("ok")
    assert_no_token(marker, client)


def test_an_audit_reads_every_config(client: Client, xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    publish(client, xet_hub, checkpoint, folder)
    assert audit(client, check_load=False)[1]["code"] == "ok       code: a version of the file of hf_vbp"
    change_json(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Processor"})
    repository = xet_hub.repositories[NAME]
    for name, data in (
        ("preprocessor_config.json", (folder / "preprocessor_config.json").read_bytes()),
        ("adapter_config.json", b"{}"),
        ("custom_generate/generate.py", b""),
    ):
        files = {**repository.head.files, name: Entry(data)}
        honest = dict(repository.head.files)
        repository.commit("refs/heads/main", files, "edit", "", "alice")
        passed, checks = audit(client, check_load=False)
        assert not passed
        assert name in checks["code"]
        repository.commit("refs/heads/main", honest, "undo", "", "alice")


@pytest.mark.parametrize(
    ("arguments", "module", "function"),
    [(["push", "folder", NAME], "hf_vbp.hub.push", "push_to_hub"), (["audit", NAME], "hf_vbp.hub.audit", "audit")],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_both_commands_have_the_option(
    arguments: list[str],
    module: str,
    function: str,
    allowed: bool,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any]] = []

    def record(*_: Any, **options: Any) -> SimpleNamespace:
        given.append(options)
        return SimpleNamespace(lines=[], sentence="", passed=True, status="created")

    monkeypatch.setattr(importlib.import_module(module), function, record)
    assert run([*arguments, *(["--trust-remote-code"] if allowed else [])], capfd, monkeypatch).code == 0
    assert [options["trust_remote_code"] for options in given] == [allowed]
