"""Where the output is not a plain folder: links, the current folder, mount points, folders that cannot be renamed."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.checkpoint import placing
from hf_vbp.checkpoint.atomic_folder import check_output_directory
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import CheckpointError
from tests.checkpoint.helpers import assert_same_outputs, make_pruned

NEW = ["config.json", "model.safetensors", "modeling_hf_vbp.py", "vbp_manifest.json"]


def save_old(folder: Path) -> None:
    save_checkpoint(make_pruned(seed=5), folder, files={"plan.json": "{}"}, verify=False)
    (folder / "README.md").write_text("mine", encoding="utf-8")


def assert_new(folder: Path, *, card: bool = True) -> None:
    assert sorted(os.listdir(folder)) == sorted([*NEW, *(["README.md"] if card else [])])
    assert_same_outputs(hf_vbp.from_pretrained(folder), make_pruned())
    if card:
        assert (folder / "README.md").read_text(encoding="utf-8") == "mine"


def assert_old(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == sorted([*NEW, "plan.json", "README.md"])
    assert_same_outputs(hf_vbp.from_pretrained(folder), make_pruned(seed=5))


def overwrite(folder: Path | str) -> None:
    save_checkpoint(make_pruned(), folder, verify=False, overwrite=True)


class TestLinks:
    def test_the_target_is_written_and_the_link_is_kept(self, tmp_path: Path) -> None:
        save_old(tmp_path / "real")
        (tmp_path / "link").symlink_to("real")
        overwrite(tmp_path / "link")
        assert os.readlink(tmp_path / "link") == "real"
        assert_new(tmp_path / "real")
        assert sorted(os.listdir(tmp_path)) == ["link", "real"]

    def test_the_target_may_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
        overwrite(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert_new(tmp_path / "a" / "b", card=False)

    def test_a_link_to_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(CheckpointError, match="expected a folder"):
            check_output_directory(tmp_path / "link")
        with pytest.raises(CheckpointError, match="expected a folder"):
            overwrite(tmp_path / "link")
        assert os.listdir(tmp_path) == ["link"]


class TestCurrentFolder:
    @pytest.mark.parametrize("name", [".", "..", "../out"])
    def test_it_shows_the_new_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        folder = tmp_path / "out"
        save_old(folder)
        if name == "..":
            # The current folder has to be empty to be part of the output, and is then in the way of it.
            (folder / "sub").mkdir()
            monkeypatch.chdir(folder / "sub")
            with pytest.raises(CheckpointError, match="holds sub/"):
                overwrite(name)
            return
        monkeypatch.chdir(folder)
        inode = folder.stat().st_ino
        overwrite(name)
        assert folder.stat().st_ino == inode
        assert sorted(os.listdir(".")) == sorted([*NEW, "README.md"])
        assert_new(folder)
        assert os.listdir(tmp_path) == ["out"]

    def test_new(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        save_checkpoint(make_pruned(), ".", verify=False)
        assert_new(Path.cwd(), card=False)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("nothing may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestMountPoint:
    def test_new_and_overwritten(self, volume: Path) -> None:
        (volume / "lost+found").mkdir()
        save_old(volume)
        overwrite(volume)
        (volume / "lost+found").rmdir()
        assert_new(volume)
        assert os.path.ismount(volume)

    def test_space_is_that_of_the_volume(self, tmp_path: Path) -> None:
        folder = tmp_path / "small"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=40k", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("nothing may be mounted here")
        try:
            with pytest.raises(CheckpointError, match="kB are free on that disk"):
                overwrite(folder)
            assert os.listdir(folder) == []
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def test_read_only(self, volume: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
        with pytest.raises(CheckpointError, match=r"cannot be (written|made)"):
            overwrite(volume)
        with pytest.raises(CheckpointError, match=r"cannot be (written|made)"):
            overwrite(volume / "a" / "b")


def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "exchange", lambda first, second: False)


class TestFoldersThatCannotBeRenamed:
    """As the system refuses it for undetected mounts and for folders of lower layers of overlayfs."""

    @pytest.fixture(params=[errno.EBUSY, errno.EXDEV, errno.EPERM])
    def busy(self, request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "out"
        replace, number = os.replace, request.param

        def refuse(source: Any, target: Any) -> None:
            if folder in (Path(source), Path(target)):
                raise OSError(number, os.strerror(number))
            replace(source, target)

        def refuse_all(source: Any, target: Any) -> None:
            raise OSError(number, os.strerror(number))

        if number == errno.EXDEV:
            # The content of the two hidden folders must then be copied; shutil.move renames with this one.
            monkeypatch.setattr(os, "rename", refuse_all)

        def refuse_exchange(first: Path, second: Path) -> bool:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "replace", refuse)
        monkeypatch.setattr(placing, "exchange", refuse_exchange)
        return folder

    def test_the_files_are_replaced(self, busy: Path) -> None:
        busy.mkdir()
        save_old(busy)
        inode = busy.stat().st_ino
        overwrite(busy)
        assert_new(busy)
        assert busy.stat().st_ino == inode
        assert os.listdir(busy.parent) == ["out"]

    def test_the_old_files_come_back(self, busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        busy.mkdir()
        save_old(busy)
        replace = os.replace

        def fail(source: Any, target: Any) -> None:
            if Path(target) == busy / "config.json" and Path(source).parent.name == "new":
                raise OSError(errno.EIO, "broken disk")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(CheckpointError, match="broken disk"):
            overwrite(busy)
        assert_old(busy)
        assert os.listdir(busy.parent) == ["out"]


class TestFailures:
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "plan.json", "vbp_manifest.json"])
    def test_a_file_that_cannot_be_moved(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        folder = tmp_path / "out"
        save_old(folder)
        monkeypatch.chdir(folder)
        replace, failed = os.replace, []

        def fail(source: Any, target: Any) -> None:
            if Path(target).name == name and not failed and Path(source).parent.name == ("new", "out")[name[0] == "p"]:
                failed.append(source)
                raise OSError(errno.EIO, "broken disk")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(CheckpointError, match="broken disk"):
            overwrite(folder)
        assert failed
        assert_old(folder)

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "broken disk"), KeyboardInterrupt()])
    def test_the_second_rename_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        folder = tmp_path / "out"
        save_old(folder)
        no_exchange(monkeypatch)
        replace, failed = os.replace, []

        def fail(source: Any, target: Any) -> None:
            if Path(target) == folder and not failed:
                failed.append(source)
                raise error
            replace(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt):
            overwrite(folder)
        assert failed
        assert_old(folder)
        assert os.listdir(tmp_path) == ["out"]

    def test_an_old_folder_that_cannot_be_put_back_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "out"
        save_old(folder)
        no_exchange(monkeypatch)
        replace = os.replace

        def fail(source: Any, target: Any) -> None:
            if Path(target) == folder:
                raise OSError(errno.EIO, "broken disk")
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(CheckpointError, match="broken disk"):
                overwrite(folder)
        assert not folder.exists()
        # The next run puts it back before it looks at the output.
        with pytest.raises(CheckpointError, match="not empty"):
            save_checkpoint(make_pruned(), folder, verify=False)
        assert_old(folder)
        assert os.listdir(tmp_path) == ["out"]

    def test_files_that_come_at_the_last_moment_are_moved_to_the_new_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "out"
        save_old(folder)
        exchange = placing.exchange

        def late(first: Path, second: Path) -> bool:
            (folder / "late.txt").write_text("mine")
            return exchange(first, second)

        monkeypatch.setattr(placing, "exchange", late)
        overwrite(folder)
        assert (folder / "late.txt").read_text() == "mine"


def test_the_permissions_of_the_folder_are_kept(tmp_path: Path) -> None:
    for name in ("empty", "taken"):
        (tmp_path / name).mkdir()
        if name == "taken":
            save_old(tmp_path / name)
        (tmp_path / name).chmod(0o2750)
        overwrite(tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o7777 == 0o2750


def test_the_model_that_was_loaded_from_the_output_is_not_overwritten(tmp_path: Path) -> None:
    save_checkpoint(make_pruned(seed=5), tmp_path / "a" / "model", verify=False)
    model = hf_vbp.from_pretrained(tmp_path / "a" / "model")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "model")
    for name in ("a/model", "link", "a"):
        with pytest.raises(CheckpointError, match=r"that the model was loaded from.*must not be overwritten"):
            save_checkpoint(model, tmp_path / name, verify=False, overwrite=True)
    assert_same_outputs(model, make_pruned(seed=5))
    save_checkpoint(model, tmp_path / "a" / "model" / "next", verify=False)
