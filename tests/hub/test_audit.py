"""An audit finds changes of a published model after the push."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.helpers import Client
from tests.hub.test_push import error_of
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.repository import Entry

NAME = "alice/pruned-vit"


def change(hub: LoopbackHub, name: str, edit: Callable[[str], str]) -> None:
    """Edit a file in the repository, as on the web page."""
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


def test_the_files_are_downloaded_to_the_given_cache(
    client: Client, hub: LoopbackHub, checkpoint: Path, tmp_path: Path
) -> None:
    client.push(checkpoint, NAME)
    cache = tmp_path / "cache"
    answer = client.ask("audit", repo_id=NAME, options={"check_load": False, "cache_dir": str(cache)})
    assert answer["passed"]
    assert list(cache.glob("models--alice--pruned-vit/snapshots/*/model.safetensors"))


def test_changed_figures_are_found(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "README.md", lambda text: text.replace("74.0 % (60.0", "84.0 % (60.0"))
    assert look(client)["figures of the card"].endswith("the section accuracy differs from vbp_results.json")
    change(xet_hub, "README.md", lambda text: text.replace("value: 0.74", "value: 0.84"))
    assert look(client)["model-index"].startswith("FAILED")


def test_other_words_are_accepted(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
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


def test_repositories_without_a_pruned_checkpoint(client: Client, xet_hub: LoopbackHub) -> None:
    xet_hub.create(NAME)
    assert "not a checkpoint made by hf_vbp" in error_of(client.ask("audit", repo_id=NAME, options={}))
    assert "the repository does not exist" in error_of(client.ask("audit", repo_id="alice/missing", options={}))
    options = {"revision": "nowhere"}
    assert "the revision 'nowhere' does not exist" in error_of(client.ask("audit", repo_id=NAME, options=options))


def test_a_section_that_appears_twice_is_found(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)

    def edit(text: str) -> str:
        start, end = text.index("<!-- hf_vbp:begin accuracy"), text.index("<!-- hf_vbp:end accuracy -->")
        section = text[start : end + len("<!-- hf_vbp:end accuracy -->")]
        return text.replace(section, section.replace("74.0 %", "94.0 %") + "\n\n" + section)

    change(xet_hub, "README.md", edit)
    assert look(client)["figures of the card"].endswith("the section accuracy appears more than once")


def test_results_that_break_the_schema(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "vbp_results.json", lambda text: text.replace('"ratio": 0.5', '"ratio": 1.5'))
    assert "results: " in look(client)["results"]
    assert look(client)["results"].startswith("FAILED")


ALIASES = "---\na0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 4)
)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda text: text.replace("---\n", ALIASES, 1), "aliases"),
        (lambda text: text.replace("---\n", f"---\na: {'[' * 5000}\n", 1), "levels deep"),
        (lambda text: text.replace("---\n", f"---\na: {'x' * 300_000}\n", 1), "expected at most"),
        (lambda text: text.replace("---\n", f"---\na: 0x{'f' * 10_000}\n", 1), "integer beyond"),
        (lambda text: text.replace("---\n", "---\na: 2024-99-99\n", 1), "not YAML"),
        (lambda text: text.replace("---\n", "---\n? [a]\n: b\n", 1), "not YAML"),
        (lambda text: text.replace("---\n", "---\n1: b\n", 1), "do not map names"),
        (lambda text: text.replace("---\n", "---\nto_dict: b\n", 1), "as in"),
        (lambda text: text + "<!-- hf_vbp:begin a -->\n" * 40_000, "no partner"),
    ],
)
def test_hostile_cards(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, edit: Callable[[str], str], found: str
) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "README.md", edit)
    assert any(found in line for line in look(client).values()), look(client)


@pytest.mark.parametrize("index", ["x", "- x", "- results: 3", "- results:\n  - dataset: x\n    metrics: [1]"])
def test_a_malformed_model_index(client: Client, xet_hub: LoopbackHub, checkpoint: Path, index: str) -> None:
    client.push(checkpoint, NAME)
    body = f"---\nmodel-index:\n{index if index.startswith('-') else '  ' + index}\n---\n"
    change(xet_hub, "README.md", lambda text: body + text.split("---\n", 2)[2])
    assert look(client)["model-index"].startswith("FAILED")


def test_metadata_that_the_client_cannot_read(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    change(xet_hub, "README.md", lambda text: text.replace("---\n", "---\nself: b\n", 1))
    message = error_of(client.ask("audit", repo_id=NAME, options={}))
    assert message.startswith("HubError: ")
    assert "metadata of the README.md" in message
