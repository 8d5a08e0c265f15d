"""Output and exit codes of ``push`` and ``audit``; their effect is tested in tests/hub."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.hub.audit import AuditReport, Check
from hf_vbp.hub.files import PushFile
from hf_vbp.hub.push_plan import PushPlan, PushResult
from tests.cli.helpers import run

NAME = "alice/pruned-vit"


@pytest.fixture
def pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the push by one that sends nothing; returns the options of the calls."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "README.md").write_text("# Card", encoding="utf-8")
    files = tuple(PushFile.of(name, tmp_path / name) for name in ("README.md", "config.json"))
    plan = PushPlan(tmp_path, NAME, "commit", None, True, "abc", files, ("README.md",), ("old.bin",), ("A remark.",))
    calls: list[dict[str, Any]] = []

    def push(directory: Path, repo_id: str, *, on_plan: Any, **options: Any) -> PushResult:
        calls.append({"directory": directory, "repo_id": repo_id, **options})
        if on_plan is not None:
            on_plan(plan)
        return PushResult("pushed", NAME, "https://hub/alice/pruned-vit", "def", None, plan)

    monkeypatch.setattr("hf_vbp.hub.push.push_to_hub", push)
    return calls


def test_push_shows_its_plan_and_its_result(
    pushed: list[dict[str, Any]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run(["push", "folder", NAME, "--private", "--message", "m", "--dry-run"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert "Note: A remark." in ran.out
    assert ran.out.splitlines()[-1].startswith("Pushed 1 of 2 files")
    (options,) = pushed
    expected = {"directory": Path("folder"), "repo_id": NAME, "private": True, "commit_message": "m", "dry_run": True}
    assert expected.items() <= options.items()
    assert not options["trust_remote_code"]


def test_push_prints_only_json(
    pushed: list[dict[str, Any]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(run(["push", "folder", NAME, "--json"], capfd, monkeypatch).out)
    assert (found["status"], found["commit"], found["deleted"]) == ("pushed", "def", ["old.bin"])
    assert found["files"] == [
        {"path": "README.md", "size": 6, "changed": True},
        {"path": "config.json", "size": 2, "changed": False},
    ]
    assert (found["remarks"], found["card"]) == (["A remark."], "# Card")


def test_a_page_is_pushed_to_a_space(
    pushed: list[dict[str, Any]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Options of checkpoints are refused, not ignored.
    ran = run(["push", "folder", NAME, "--space", "--create-pr", "--revision", "b"], capfd, monkeypatch)
    assert ran.code == 2
    assert "--revision, --create-pr cannot be used with --space" in " ".join(ran.err.split())
    module = sys.modules["hf_vbp.hub.push_space"]
    monkeypatch.setattr(module, "push_space", sys.modules["hf_vbp.hub.push"].push_to_hub)
    ran = run(["push", "folder", NAME, "--space", "--overwrite"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    (options,) = pushed
    assert options.keys() == {"directory", "repo_id", "private", "overwrite", "commit_message", "dry_run"}
    assert options["overwrite"]


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (None, 0), (False, 1)])
def test_audit_exits_with_1_where_a_check_failed(
    passed: bool | None, code: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = AuditReport(NAME, "abc", Path("folder"), (Check("hashes", passed, "[/x] \x1b[31m"),))
    # The package has a function of the name of the module.
    given: list[Any] = []

    def audit(*_: Any, cache_dir: Any, **__: Any) -> AuditReport:
        given.append(cache_dir)
        return report

    monkeypatch.setattr(sys.modules[AuditReport.__module__], "audit", audit)
    ran = run(["audit", NAME, "--cache-dir=~/hub"], capfd, monkeypatch)
    assert given == [Path("~/hub").expanduser()]
    assert ran.code == code
    assert "hashes: [/x] \\x1b[31m" in ran.out
    found = run(["audit", NAME, "--json"], capfd, monkeypatch)
    assert found.code == code
    assert json.loads(found.out) == {
        "repo_id": NAME,
        "revision": "abc",
        "passed": passed is not False,
        "checks": [{"name": "hashes", "passed": passed, "detail": "[/x] \x1b[31m"}],
    }
