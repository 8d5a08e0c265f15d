"""Files are written in full or not at all, and only the files of killed processes are removed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import OutputError
from hf_vbp.files.atomic import atomic_write, hidden_folder, lock_path
from hf_vbp.files.locking import output_lock
from hf_vbp.pruning.plan import PruningPlan, SitePlan

HOLD = """
import sys
from pathlib import Path
from hf_vbp.files.atomic import hidden_folder, lock_path
from hf_vbp.files.locking import output_lock
target = Path(sys.argv[1])
with output_lock(lock_path(target), target), hidden_folder(target, target.parent) as folder:
    (folder / "big").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


def make_plan(kept: int = 3) -> PruningPlan:
    sites = (SitePlan("mlp", 4, tuple(range(kept))),)
    removed = 1 - kept / 4
    return PruningPlan(sites, VBPConfig.preset("paper", ratio=removed), removed, "weights", "statistics")


class Holder:
    """A process that holds an output and has unfinished files for it."""

    def __init__(self, target: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.mark.parametrize("content", ["new", b"new", lambda path: path.write_text("new")])
def test_content(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    atomic_write(tmp_path / "link", content)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_write_that_fails_leaves_the_old_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_plan().save(tmp_path / "plan.json")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
        with pytest.raises(OutputError, match="disk full"):
            make_plan(2).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_plan_is_whole_after_a_kill_at_any_operation(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from tests.files.test_atomic import make_plan
path = Path(sys.argv[1])
for point in range(1000):
    make_plan(3).save(path)
    if (child := os.fork()) == 0:
        seen = 0
        def hook(event, arguments):
            global seen
            watched = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
            if event in watched and str(path.parent) in str(arguments[0]):
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        sys.addaudithook(hook)
        make_plan(2).save(path)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kept = len(type(make_plan()).load(path).sites[0].kept)
    print(code, kept)
    if code == 0:
        break
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "plan.json")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) > 5
    assert {code for code, _ in lines[:-1]} == {-9}
    assert {kept for _, kept in lines} == {2, 3}
    make_plan().save(tmp_path / "plan.json")
    assert os.listdir(tmp_path) == ["plan.json"]


def test_nothing_is_left_by_a_sigterm_at_any_operation(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from hf_vbp.files.atomic import atomic_write, lock_path
from hf_vbp.files.locking import output_lock
path = Path(sys.argv[1])
def end(number, frame):
    raise SystemExit(143)
signal.signal(signal.SIGTERM, end)
for point in range(1000):
    path.write_text("old")
    if (child := os.fork()) == 0:
        seen = 0
        def hook(event, arguments):
            global seen
            watched = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
            if event in watched and str(path.parent) in str(arguments[0]):
                seen += 1
                if seen - 1 == point:
                    os.kill(os.getpid(), signal.SIGTERM)
        sys.addaudithook(hook)
        try:
            with output_lock(lock_path(path), path):
                atomic_write(path, "new")
        except SystemExit as ended:
            os._exit(ended.code)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, path.read_text(), *[name for name in os.listdir(path.parent) if name != path.name])
    if code == 0:
        break
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) > 8
    assert set(lines) == {"143 old", "143 new", "0 new"}


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_has_is_not(tmp_path: Path) -> None:
    target = tmp_path / "out"
    holder = Holder(target)
    left = next(tmp_path.glob(".out.*.partial"))
    strange = [tmp_path / ".out.0123456789ab.partial", tmp_path / ".other.0123456789ab.partial"]
    for folder in strange:
        folder.mkdir()
        (folder / "file").write_text("mine")
    says = rf"being written by another process \(pid {holder.process.pid}\)"
    with pytest.raises(OutputError, match=says), output_lock(lock_path(target), target):
        pass
    atomic_write(target, "1")
    assert (left / "big").exists()
    holder.kill()
    with output_lock(lock_path(target), target):
        atomic_write(target, "2")
    assert sorted(os.listdir(tmp_path)) == sorted(["out", *(folder.name for folder in strange)])
    assert all((folder / "file").exists() for folder in strange)


def test_the_lock_is_of_the_thread_and_not_of_the_process(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    target = tmp_path / "out"

    def take() -> None:
        with output_lock(lock_path(target), target):
            pass

    with output_lock(lock_path(target), target), ThreadPoolExecutor(1) as pool:
        take()
        with pytest.raises(OutputError, match="another process"):
            pool.submit(take).result()
        assert lock_path(target).exists()
    assert os.listdir(tmp_path) == []


def test_long_names(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120)
    with output_lock(lock_path(path), path):
        atomic_write(path, "text")
    with hidden_folder(path, tmp_path) as folder:
        assert folder.is_dir()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["folder", "device", "missing"])
def test_outputs_that_are_not_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = {"folder": tmp_path, "device": Path("/dev/null"), "missing": tmp_path / "a" / "b"}[kind]
    with pytest.raises(OutputError):
        make_plan().save(path)
    assert os.listdir(tmp_path) == []
    assert not Path("/dev/null").is_file()
