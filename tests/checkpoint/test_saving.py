"""A checkpoint is saved completely or not at all, never over other files, and only if its config fits the model."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import hf_vbp
from hf_vbp.checkpoint.atomic_folder import check_output_directory
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import resize
from tests.checkpoint.helpers import WIDTHS, assert_same_outputs, assert_whole, make_pruned, read_config
from tests.conftest import make_model


class Processor:
    """A replacement of an image processor."""

    def save_pretrained(self, folder: Path) -> None:
        (Path(folder) / "preprocessor_config.json").write_text("{}", encoding="utf-8")


def test_all_files_are_written(tmp_path: Path) -> None:
    model = make_pruned().train()
    files = {
        "plan.json": '{"a": 1}',
        "blob": b"\x00",
        "vbp_results.json": lambda receipt: json.dumps(receipt.to_list()),
    }
    receipt = save_checkpoint(model, tmp_path / "a" / "b", processor=Processor(), files=files, verify=False)
    assert receipt == Receipt(tmp_path / "a" / "b", ())
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [
        "blob", "config.json", "model.safetensors", "modeling_hf_vbp.py", "plan.json", "preprocessor_config.json",
        "vbp_manifest.json", "vbp_results.json",
    ]  # fmt: skip
    assert (tmp_path / "a" / "b" / "vbp_results.json").read_text() == "[]"
    assert os.listdir(tmp_path / "a") == ["b"]
    assert model.training
    assert_whole(tmp_path / "a" / "b", WIDTHS)
    assert_same_outputs(hf_vbp.from_pretrained(tmp_path / "a" / "b"), model)


def test_remote_file_also_after_disable(tmp_path: Path) -> None:
    hf_vbp.unpatch_transformers()
    save_checkpoint(make_pruned(), tmp_path, verify=False)
    assert "AutoModelForImageClassification" in read_config(tmp_path)["auto_map"]
    assert_whole(tmp_path, WIDTHS)


def test_dense_model(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path, verify=False)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors", "vbp_manifest.json"]


def failing_save(error: BaseException) -> Callable[..., None]:
    def save(folder: Path, **_: Any) -> None:
        (Path(folder) / "config.json").write_text("{}", encoding="utf-8")
        raise error

    return save


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError),
        (SafetensorError("Error while serializing: I/O error: No space left on device"), CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(1), SystemExit),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_interruption_does_not_modify_the_output(
    tmp_path: Path, error: BaseException, raised: type[BaseException], overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    old = make_pruned(seed=5)
    if overwrite:
        save_checkpoint(old, folder, verify=False)
    model = make_pruned()
    monkeypatch.setattr(model, "save_pretrained", failing_save(error))
    with pytest.raises(raised, match="No space left" if raised is CheckpointError else None):
        save_checkpoint(model, folder, overwrite=overwrite)
    assert os.listdir(tmp_path) == (["out"] if overwrite else [])
    if overwrite:
        assert_same_outputs(hf_vbp.from_pretrained(folder), old)


def test_files_that_cannot_grow(tmp_path: Path) -> None:
    """A real write error in the middle of the weights, as a full disk or a quota gives."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            save_checkpoint(make_pruned(), tmp_path / "out", verify=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    save_checkpoint(make_pruned(), tmp_path / "out", files={"old.json": "{}"}, verify=False)
    save_checkpoint(make_model(), tmp_path / "out", verify=False, overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors", "vbp_manifest.json"]
    assert os.listdir(tmp_path) == ["out"]


class TestOutputDirectory:
    def test_new_or_empty(self, tmp_path: Path) -> None:
        assert check_output_directory(tmp_path) == tmp_path
        assert check_output_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_file(self, tmp_path: Path, overwrite: bool) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(CheckpointError, match="is a file"):
            check_output_directory(tmp_path / "out", overwrite)

    def test_taken(self, tmp_path: Path) -> None:
        save_checkpoint(make_pruned(), tmp_path, verify=False)
        with pytest.raises(CheckpointError, match="exists and is not empty"):
            check_output_directory(tmp_path)
        assert check_output_directory(tmp_path, overwrite=True) == tmp_path

    @pytest.mark.parametrize("names", [["notes.txt"], ["config.json"], ["config.json", ".git"]])
    def test_something_else_is_never_overwritten(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match="which hf_vbp did not write"):
            check_output_directory(tmp_path, overwrite=True)

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match="not a folder that can be written to"):
            check_output_directory(tmp_path / "file" / "out")

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(CheckpointError, match=r"needs 9\d\.\d kB, but 1\.0 kB are free"):
            save_checkpoint(make_pruned(), tmp_path / "out")
        assert os.listdir(tmp_path) == []


class TestRefusals:
    def test_taken_folder_before_any_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config.json").touch()
        model = make_pruned()
        monkeypatch.setattr(model, "save_pretrained", failing_save(AssertionError("work was done")))
        with pytest.raises(CheckpointError, match="not empty"):
            save_checkpoint(model, tmp_path)

    @pytest.mark.parametrize("model", [nn.Linear(2, 2), None, "model"])
    def test_not_a_model(self, tmp_path: Path, model: Any) -> None:
        with pytest.raises(UnsupportedModelError, match="Expected a transformers model"):
            save_checkpoint(model, tmp_path)

    def test_weights_on_meta(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedModelError, match="not in memory"):
            save_checkpoint(make_pruned().to("meta"), tmp_path)

    @pytest.mark.parametrize("pruned_before", [False, True])
    def test_widths_that_the_config_does_not_record(self, tmp_path: Path, pruned_before: bool) -> None:
        model = make_pruned() if pruned_before else make_model()
        resize(model, [5, 6, 7])
        with pytest.raises(CheckpointError, match=r"\[5, 6, 7\], but its config records.*write_widths"):
            save_checkpoint(model, tmp_path)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "config.json", "model.safetensors"])
    def test_names_of_files(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigurationError, match="free, plain name"):
            save_checkpoint(make_pruned(), tmp_path, files={name: "{}"})

    def test_not_finite(self, tmp_path: Path) -> None:
        model = make_pruned()
        with torch.no_grad():
            model.classifier.weight[0, 0] = torch.nan
        with pytest.raises(CheckpointError, match="NaN or infinity"):
            save_checkpoint(model, tmp_path / "out")
        assert os.listdir(tmp_path) == []
