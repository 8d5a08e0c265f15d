"""Code of a checkpoint runs only when the user allows it, and then without a token."""

import json
from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.checkpoint.receipt import take_receipt, verify_checkpoint
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.data.processing import load_processor
from hf_vbp.errors import CheckpointError, DataError, UnsupportedModelError
from hf_vbp.workflow.loading import load_model
from tests.checkpoint.helpers import change_config, make_pruned
from tests.foreign_code import TOKEN, change_json, credentials, point_elsewhere, put_in_cache, spy

pytestmark = pytest.mark.real_process


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that foreign code writes when it runs."""
    return tmp_path / "marker.json"


@pytest.fixture(params=["changed file", "other repository"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose code is not ours, on the machine of a user with tokens."""
    cache = tmp_path / "user" / ".cache" / "huggingface" / "hub"
    for name, value in credentials(tmp_path / "user"):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    folder = tmp_path / "foreign"
    make_pruned().save_pretrained(folder)
    if request.param == "changed file":
        (folder / "modeling_hf_vbp.py").write_text(spy(marker))
    else:
        point_elsewhere(folder)
        put_in_cache(cache, marker)
    return folder


def test_verification_refuses_foreign_code(foreign: Path, marker: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not part of hf_vbp: .*Nothing was run.*trust_remote_code=True"):
        verify_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="Nothing was run"):
        take_receipt(make_pruned(), foreign)
    assert not marker.exists()


def test_foreign_code_that_is_allowed_finds_no_token(foreign: Path, marker: Path) -> None:
    entries = verify_checkpoint(foreign, trust_remote_code=True).entries
    assert [(entry.way, entry.max_abs_difference) for entry in entries] == [("import", 0.0), ("remote_code", 0.0)]
    seen = marker.read_text()
    assert TOKEN not in seen
    assert (json.loads(seen)["token"], json.loads(seen)["files"]) == (None, {})
    assert str(foreign.parent / "user") not in seen


def test_a_process_with_the_packages_code_has_no_token_either(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials(tmp_path / "user"):
        monkeypatch.setenv(name, value)
    model = make_pruned()
    model.save_pretrained(tmp_path / "own")
    (tmp_path / "sitecustomize").mkdir()
    (tmp_path / "sitecustomize" / "sitecustomize.py").write_text(
        f"import json, os\nopen({str(marker)!r}, 'w').write(json.dumps(dict(os.environ)))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sitecustomize"))
    take_receipt(model, tmp_path / "own", ways=["remote_code"])
    assert TOKEN not in marker.read_text()


def test_a_model_that_names_foreign_code_is_not_verified(tmp_path: Path) -> None:
    model = make_pruned()
    model.config.auto_map = {"AutoConfig": "owner/other--configuration.Config"}
    with pytest.raises(CheckpointError, match="code of another repository"):
        save_checkpoint(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("load", "error", "said"),
    [
        (hf_vbp.from_pretrained, CheckpointError, "trust_remote_code=True"),
        (lambda folder: load_model(str(folder)), UnsupportedModelError, "loads only with code that comes with it"),
    ],
)
def test_loading_runs_no_code_and_asks_nothing(
    load: Any, error: type[Exception], said: str, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers asks on the terminal where it needs code for a type that it does not know.
    monkeypatch.setattr("builtins.input", lambda _: "y")
    make_pruned().save_pretrained(tmp_path / "foreign")
    (tmp_path / "foreign" / "own.py").write_text(spy(marker))
    auto_map = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.ViTForImageClassification"}
    change_config(tmp_path / "foreign", model_type="unheard-of", auto_map=auto_map)
    with pytest.raises(error, match=said):
        load(tmp_path / "foreign")
    assert not marker.exists()


def test_a_processor_runs_no_code_and_asks_nothing(
    tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "y")
    (tmp_path / "own.py").write_text(spy(marker))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    change_json(tmp_path / "preprocessor_config.json", auto_map={"AutoImageProcessor": "own.Processor"})
    with pytest.raises(DataError, match="no image processor that can be loaded"):
        load_processor(tmp_path)
    assert not marker.exists()
