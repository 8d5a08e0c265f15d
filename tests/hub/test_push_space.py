"""Pages as static Spaces: the real client against the loopback Hub, with Xet and without."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_vbp.export.web import write_page
from tests.export.web.packages import make_export, make_packages
from tests.hub.helpers import Client
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.repository import Entry

NAME = "alice/pruned-page"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported folder with a page, whose models and packages are small."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    packages, tarballs = make_packages(tmp_path / "tarballs")
    made = make_export(tmp_path / "pruned", "model.onnx", "model_quantized.onnx")
    (made / "onnx/model.onnx").write_bytes(b"\0" * 5000)
    (made / "README.md").write_text("---\nlicense: mit\n---\n# The card of the model\n", encoding="utf-8")
    (made / ".env").write_text("secret", encoding="utf-8")
    dense = make_export(tmp_path / "dense")
    write_page(made, dense, title='Birds: "a" & <b>', packages=packages, tarballs=tarballs)
    return made


def push(client: Client, folder: Path, **options: Any) -> dict[str, Any]:
    return client.ask("push_page", directory=str(folder), repo_id=NAME, options=options)


def test_one_commit_makes_a_static_space(client: Client, hub: LoopbackHub, folder: Path) -> None:
    answer = push(client, folder)
    assert answer["status"] == "pushed", answer
    assert answer["url"] == f"{hub.url}/spaces/{NAME}"
    assert answer["lines"][0] == f"Create the Space {NAME} and send:"
    assert set(hub.repositories) == {"alice/base-vit", f"spaces/{NAME}"}
    repository = hub.repositories[f"spaces/{NAME}"]
    assert answer["commit"] == repository.head.sha
    assert len(repository.commits) == 2
    files = repository.files()
    expected = set(json.loads((folder / "page.json").read_text(encoding="utf-8"))["files"])
    assert set(files) == expected | {"README.md", ".gitattributes"}
    assert all(files[name] == (folder / name).read_bytes() for name in expected)
    front, text = files["README.md"].decode().split("---\n")[1:]
    settings = yaml.safe_load(front)
    assert settings["sdk"] == "static"
    assert settings["app_file"] == "index.html"
    assert settings["title"] == 'Birds: "a" & <b>'
    assert set(settings["custom_headers"]) == {
        "cross-origin-embedder-policy", "cross-origin-opener-policy", "cross-origin-resource-policy",
    }  # fmt: skip
    assert "- Pruned: fp32, 0.0 MB, q8, 0.0 MB\n- Dense: fp32" in text
    assert "<b>" not in text
    # The card of the model in the folder is not changed.
    assert "# The card of the model" in (folder / "README.md").read_text(encoding="utf-8")
    again = push(client, folder)
    assert again["status"] == "unchanged"
    assert len(repository.commits) == 2


def test_a_dry_run_only_reads(client: Client, xet_hub: LoopbackHub, folder: Path) -> None:
    answer = push(client, folder, dry_run=True, private=True)
    assert answer["status"] == "dry_run"
    assert "README.md" in answer["changed"]
    assert answer["lines"][0] == f"Create the Space {NAME} (private) and send:"
    assert f"/spaces/{NAME}" in answer["sentence"]
    assert {entry.method for entry in xet_hub.log} == {"GET"}


def test_a_space_with_content_is_refused_and_overwritten(client: Client, xet_hub: LoopbackHub, folder: Path) -> None:
    repository = xet_hub.create(f"spaces/{NAME}")
    old = {name: Entry(b"old") for name in ("index.html", "app.js", "dense/onnx/model_quantized.onnx")}
    repository.commit("refs/heads/main", {**repository.head.files, **old}, "old", "", "alice")
    answer = push(client, folder)
    assert answer["message"] == (
        f"{NAME} already holds app.js, dense/onnx/model_quantized.onnx, index.html; nothing was sent. Overwrite it "
        "(--overwrite), or choose another name."
    )
    assert len(repository.commits) == 2
    answer = push(client, folder, overwrite=True)
    assert answer["status"] == "pushed"
    # A model that the new page has not is deleted; files of the user are kept.
    assert answer["deleted"] == ["dense/onnx/model_quantized.onnx"]
    files = repository.files()
    assert files["app.js"] == b"old"
    assert files["index.html"] == (folder / "index.html").read_bytes()


def test_a_lost_answer_is_found_in_the_space(client: Client, hub: LoopbackHub, folder: Path) -> None:
    hub.fail("lose_answer", method="POST", path=r"/commit/")
    answer = push(client, folder)
    assert answer["status"] == "pushed", answer
    assert len(hub.repositories[f"spaces/{NAME}"].commits) == 2


def test_folders_that_are_refused(client: Client, xet_hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    assert "page.json cannot be read" in push(client, tmp_path / "dense")["message"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "token": "hf_" + "a" * 34}), encoding="utf-8")
    assert "config.json seems to hold a Hub token" in push(client, folder)["message"]
    (folder / "config.json").unlink()
    assert "config.json is missing" in push(client, folder)["message"]
    assert f"spaces/{NAME}" not in xet_hub.repositories
    (folder / "config.json").write_text(json.dumps({**config, "path": str(folder.resolve())}), encoding="utf-8")
    assert push(client, folder, dry_run=True)["remarks"] == ["config.json names a path of this machine."]
