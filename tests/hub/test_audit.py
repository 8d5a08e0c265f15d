"""Anybody can audit a published model: what was changed after the push is found."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.hub.helpers import Client
from tests.hub.test_push import error_of
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.repository import Entry

NAME = "alice/pruned-vit"


def change(hub: LoopbackHub, name: str, edit: Callable[[str], str]) -> None:
    """Edit a file in the repository, as somebody could on the web page."""
    repository = hub.repositories[NAME]
    files = dict(repository.head.files)
    files[name] = Entry(edit(files[name].data.decode()).encode())
    repository.commit("refs/heads/main", files, "edit", "", "alice")


def look(client: Client, revision: str | None = None) -> dict[str, str]:
    """Return name to line of the checks."""
    answer = client.ask("audit", repo_id=NAME, options={"check_load": False, "revision": revision})
    assert "lines" in answer, answer
    return {line[11:].partition(":")[0]: line.strip() for line in answer["lines"][1:]}


def test_an_honest_repository_passes(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    checks = look(client)
    assert not [line for line in checks.values() if line.startswith("FAILED")]
    assert checks["download"] == "ok       download: 7 files as listed"


def test_figures_that_were_embellished_are_found(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "README.md", lambda text: text.replace("74.0 % (60.0", "84.0 % (60.0"))
    assert look(client)["figures of the card"].endswith("that are not what vbp_results.json says: accuracy")
    change(xet_hub, "README.md", lambda text: text.replace("value: 0.74", "value: 0.84"))
    assert look(client)["model-index"].startswith("FAILED")


def test_own_words_are_no_failure(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "README.md", lambda text: text.replace("## Cost", "## What it costs") + "\n## Mine\n\n12345\n")
    assert look(client)["figures of the card"].startswith("ok")


def test_a_revision_is_pinned(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    commit = client.push(checkpoint, NAME)["commit"]
    change(xet_hub, "README.md", lambda text: text.replace("74.0 %", "94.0 %"))
    assert look(client, commit)["figures of the card"].startswith("ok")
    assert look(client)["figures of the card"].startswith("FAILED")


def test_widths_and_hashes(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)

    def edit(text: str) -> str:
        results = json.loads(text)
        results["plan"]["widths"] = [1, 2, 3]
        results["receipt"][0]["files"] = {"model.safetensors": "0" * 64}
        return json.dumps(results)

    change(xet_hub, "vbp_results.json", edit)
    checks = look(client)
    assert checks["widths"].startswith("FAILED")
    assert checks["hashes"].startswith("FAILED")


def test_foreign_code_is_not_run(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "modeling_hf_vbp.py", lambda text: "raise SystemExit('run')\n" + text)
    answer = client.ask("audit", repo_id=NAME, options={})
    assert "skipped  loading: not run" in answer["lines"][-1]


def test_what_is_no_pruned_checkpoint(client: Client, xet_hub: LoopbackHub) -> None:
    xet_hub.create(NAME)
    assert "not a checkpoint made by hf_vbp" in error_of(client.ask("audit", repo_id=NAME, options={}))
    assert "no such repository" in error_of(client.ask("audit", repo_id="alice/missing", options={}))
    options = {"revision": "nowhere"}
    assert "no such revision" in error_of(client.ask("audit", repo_id=NAME, options=options))
