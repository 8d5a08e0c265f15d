"""--overwrite replaces exactly the written files, and no other."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import hf_vbp
from hf_vbp.checkpoint.atomic_folder import check_output_directory
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import CheckpointError, ConfigurationError
from tests.checkpoint.helpers import assert_same_outputs, make_pruned
from tests.conftest import make_model

WRITTEN = ["config.json", "model.safetensors", "modeling_hf_vbp.py", "plan.json"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    save_checkpoint(make_pruned(seed=5), tmp_path / "out", files={"plan.json": "{}"}, verify=False)
    return tmp_path / "out"


def overwrite(folder: Path) -> None:
    save_checkpoint(make_pruned(), folder, files={"new.json": "{}"}, verify=False, overwrite=True)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_the_manifest_lists_the_written_files(out: Path) -> None:
    import hashlib

    content = json.loads((out / "vbp_manifest.json").read_text(encoding="utf-8"))
    assert content["hf_vbp"] == hf_vbp.__version__
    assert sorted(content["files"]) == WRITTEN
    assert sorted(os.listdir(out)) == sorted([*WRITTEN, "vbp_manifest.json"])
    for name, entry in content["files"].items():
        assert entry["size"] == (out / name).stat().st_size
        assert entry["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()


def test_written_files_are_replaced_and_none_is_kept(out: Path) -> None:
    overwrite(out)
    expected = ["config.json", "model.safetensors", "modeling_hf_vbp.py", "new.json", "vbp_manifest.json"]
    assert sorted(os.listdir(out)) == expected
    assert_same_outputs(hf_vbp.from_pretrained(out), make_pruned())
    overwrite(out)
    assert os.listdir(out.parent) == ["out"]


def add(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine", encoding="utf-8")

    return change


def retrained(folder: Path) -> None:
    make_pruned(seed=8).save_pretrained(folder)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "notes": ("thesis.txt", add("thesis.txt")),
    "hidden file": (".env", add(".env")),
    "repository": (r"\.git/HEAD", add(".git/HEAD")),
    "training checkpoint": ("checkpoint-500/optimizer.pt", add("checkpoint-500/optimizer.pt")),
    "images": ("photos/cat/1.jpg", add("photos/cat/1.jpg")),
    "empty folder": ("empty/", lambda folder: (folder / "empty").mkdir()),
    "broken link": ("link", lambda folder: (folder / "link").symlink_to("nowhere")),
    "link to a folder": ("link", lambda folder: (folder / "link").symlink_to(folder.parent)),
    "weights of another training": ("model.safetensors, which was changed", retrained),
    "another plan": ("plan.json, which was changed", add("plan.json")),
    "another tool's hidden folder": (r"\.out\.0123456789ab\.partial", add(".out.0123456789ab.partial/a")),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_other_files_are_refused_by_name_and_kept(out: Path, kind: str) -> None:
    name, change = CHANGES[kind]
    change(out)
    before = listing(out)
    with pytest.raises(CheckpointError, match=f"holds {name}.*not overwritten"):
        check_output_directory(out, overwrite=True)
    with pytest.raises(CheckpointError, match=f"holds {name}"):
        overwrite(out)
    assert listing(out) == before
    assert os.listdir(out.parent) == ["out"]


def test_files_that_appear_during_the_work_are_refused_and_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_pruned()
    save = model.save_pretrained

    def saving(folder: Path) -> None:
        add("late.txt")(out)
        save(folder)

    monkeypatch.setattr(model, "save_pretrained", saving)
    with pytest.raises(CheckpointError, match=r"late\.txt"):
        save_checkpoint(model, out, verify=False, overwrite=True)
    assert (out / "late.txt").read_text() == "mine"
    assert json.loads((out / "plan.json").read_text()) == {}
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("written", [False, True])
def test_the_card_of_the_user_is_carried_over(tmp_path: Path, written: bool) -> None:
    out = tmp_path / "out"
    save_checkpoint(make_pruned(seed=5), out, files={"README.md": "ours"} if written else {}, verify=False)
    (out / "README.md").write_text("my own text", encoding="utf-8")
    for _ in range(2):
        save_checkpoint(make_pruned(), out, files={"README.md": "ours"}, verify=False, overwrite=True)
        assert (out / "README.md").read_text(encoding="utf-8") == "my own text"
        assert "README.md" not in json.loads((out / "vbp_manifest.json").read_text())["files"]


def test_an_unchanged_card_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(make_pruned(seed=5), tmp_path / "out", files={"README.md": "old"}, verify=False)
    save_checkpoint(make_pruned(), tmp_path / "out", files={"README.md": "new"}, verify=False, overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "new"


GOOD = {"format": "hf_vbp.manifest", "version": 1, "files": {"plan.json": {"size": 2, "sha256": "0"}}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read .*recursion"),
        ("[]", "is not a JSON object"),
        ("{}", "format is missing; expected 'hf_vbp.manifest'"),
        (json.dumps({**GOOD, "version": 9}), "version is 9; expected 1"),
        (json.dumps({**GOOD, "version": True}), "version is True; expected 1"),
        (json.dumps({**GOOD, "files": None}), "files is null; expected an object"),
        (json.dumps({**GOOD, "files": []}), "files is a list; expected an object"),
        (json.dumps({**GOOD, "files": {"a": 3}}), "files.a is 3; expected an object"),
        (
            json.dumps({**GOOD, "files": {"a": {"size": "2", "sha256": "0"}}}),
            'files.a.size is "2"; expected an integer',
        ),
        (json.dumps({**GOOD, "files": {"a": {"size": 2}}}), "files.a.sha256 is missing"),
    ],
    ids=lambda value: value[:30],
)
def test_a_damaged_manifest_is_no_permission(out: Path, text: str, says: str) -> None:
    (out / "vbp_manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"vbp_manifest\.json.*{says}.* may be replaced are not known"):
        overwrite(out)
    assert (out / "plan.json").exists()


def test_the_name_of_the_manifest_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"vbp_manifest\.json"):
        save_checkpoint(make_pruned(), tmp_path / "out", files={"vbp_manifest.json": "{}"}, verify=False)


class TestFirstVersion:
    """Checkpoints without a manifest."""

    @pytest.fixture
    def first(self, out: Path) -> Path:
        (out / "vbp_manifest.json").unlink()
        add("recipe.yaml")(out)
        add("preprocessor_config.json")(out)
        return out

    def test_its_files_are_replaced_and_the_card_is_kept(self, first: Path) -> None:
        add("README.md")(first)
        overwrite(first)
        expected = ["config.json", "model.safetensors", "modeling_hf_vbp.py", "new.json", "README.md"]
        assert sorted(os.listdir(first)) == sorted([*expected, "vbp_manifest.json"])
        assert (first / "README.md").read_text() == "mine"

    def test_shards_are_replaced(self, first: Path) -> None:
        (first / "model.safetensors").rename(first / "model-00001-of-00002.safetensors")
        add("model-00002-of-00002.safetensors")(first)
        add("model.safetensors.index.json")(first)
        overwrite(first)
        assert not list(first.glob("model-*"))

    @pytest.mark.parametrize("kind", ["notes", "repository", "training checkpoint", "images", "empty folder"])
    def test_other_files_are_refused(self, first: Path, kind: str) -> None:
        name, change = CHANGES[kind]
        change(first)
        before = listing(first)
        with pytest.raises(CheckpointError, match=f"holds {name}"):
            overwrite(first)
        assert listing(first) == before

    def test_weights_that_are_not_those_of_the_receipt_are_refused(self, first: Path) -> None:
        from hf_vbp.checkpoint.receipt import _hashes

        receipt = [{"way": "import", "files": _hashes(first)}]
        (first / "vbp_results.json").write_text(json.dumps({"schema_version": 1, "receipt": receipt}))
        check_output_directory(first, overwrite=True)
        retrained(first)
        with pytest.raises(CheckpointError, match=r"model\.safetensors, which was changed"):
            overwrite(first)

    def test_a_checkpoint_of_another_program_is_refused(self, tmp_path: Path) -> None:
        make_model().save_pretrained(tmp_path / "theirs")
        before = listing(tmp_path)
        with pytest.raises(CheckpointError, match=r"holds config\.json, which hf_vbp did not write"):
            overwrite(tmp_path / "theirs")
        assert listing(tmp_path) == before
