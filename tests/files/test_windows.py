"""Outputs by the rules of Windows, simulated on Linux.

Open files and the folders that hold them can be neither renamed nor removed, folders cannot be opened, locks are those
of ``msvcrt``, and there is no exchange of folders. It shows that the order of operations respects these rules, not how
Windows itself behaves.
"""

import errno
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_vbp.checkpoint import placing
from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import OutputError
from hf_vbp.files import atomic, locking
from hf_vbp.files.atomic import atomic_write, hidden_folder, lock_path
from hf_vbp.files.locking import output_lock, try_lock
from tests.checkpoint.helpers import make_pruned

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the open files are read from /proc")


def open_files() -> set[Path]:
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.add(Path(os.readlink(f"/proc/self/fd/{entry}")))
        except OSError:
            continue
    return found


def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
    def operation(path: Any, *arguments: Any, **options: Any) -> Any:
        targets = {Path(os.path.realpath(name)) for name in (path, *arguments) if isinstance(name, str | Path)}
        if any(target in (file, *file.parents) for file in open_files() for target in targets):
            raise PermissionError(
                errno.EACCES, "The process cannot access the file because it is being used", str(path)
            )
        return real(path, *arguments, **options)

    return operation


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def lock(descriptor: int, mode: int, count: int) -> None:
        assert count == 1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    opened = os.open

    def open_(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if options.get("dir_fd") is None and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, *arguments, **options)

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=lock))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type]
    monkeypatch.setattr(locking, "is_windows", lambda: True)
    monkeypatch.setattr(atomic, "is_windows", lambda: True)
    monkeypatch.setattr(placing, "exchange", lambda first, second: False)
    # shutil removes folders by descriptors where the system has them.
    monkeypatch.setattr("shutil._use_fd_functions", False)
    for name in ("unlink", "remove", "rmdir", "rename", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(os, "open", open_)


@pytest.mark.usefixtures("windows")
class TestWindows:
    def test_files_are_written_and_replaced(self, tmp_path: Path) -> None:
        for text in ("old", "new"):
            atomic_write(tmp_path / "plan.json", text)
            assert (tmp_path / "plan.json").read_text() == text
        assert os.listdir(tmp_path) == ["plan.json"]

    def test_a_file_that_is_open_stays(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "plan.json", "old")
        with open(tmp_path / "plan.json"), pytest.raises(PermissionError):
            atomic_write(tmp_path / "plan.json", "new")
        assert (tmp_path / "plan.json").read_text() == "old"
        assert os.listdir(tmp_path) == ["plan.json"]

    def test_what_a_killed_process_left_is_removed_and_what_a_running_one_has_is_not(self, tmp_path: Path) -> None:
        target = tmp_path / "plan.json"
        with hidden_folder(target, tmp_path) as running:
            atomic_write(target, "new")
            assert (running / atomic.MARKER).is_file()
            left = tmp_path / f".plan.json.{'0' * 12}.partial"
            left.mkdir()
            (left / atomic.MARKER).write_text((running / atomic.MARKER).read_text())
            (left / "half").write_text("half")
            atomic_write(target, "newer")
            assert running.is_dir()
        assert os.listdir(tmp_path) == ["plan.json"]

    def test_one_process_at_a_time_and_its_number_is_shown(self, tmp_path: Path) -> None:
        lock = lock_path(tmp_path / "out")
        other = os.open(lock, os.O_RDWR | os.O_CREAT)
        os.write(other, b"4321\n")
        assert try_lock(other) is True
        with pytest.raises(OutputError, match=r"being written by another process \(pid 4321\)"), _locked(lock):
            pass
        os.close(other)
        with _locked(lock):
            assert lock.is_file()
        assert not lock.exists()

    def test_checkpoints_are_written_and_replaced(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            save_checkpoint(make_pruned(seed=seed), tmp_path / "out", verify=False, overwrite=True)
            assert sorted(os.listdir(tmp_path)) == ["out"]
            assert "config.json" in os.listdir(tmp_path / "out")

    def test_a_checkpoint_that_is_open_is_not_lost(self, tmp_path: Path) -> None:
        save_checkpoint(make_pruned(seed=1), tmp_path / "out", verify=False)
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        with open(tmp_path / "out" / "model.safetensors"), pytest.raises(OSError, match="being used"):
            save_checkpoint(make_pruned(seed=2), tmp_path / "out", verify=False, overwrite=True)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        assert os.listdir(tmp_path) == ["out"]


def _locked(lock: Path) -> Any:
    return output_lock(lock, lock.parent / "out")


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError):
        importlib.import_module("fcntl")
    with _locked(lock_path(tmp_path / "out")):
        atomic_write(tmp_path / "plan.json", "text")
    assert os.listdir(tmp_path) == ["plan.json"]
