"""Overwrites a checkpoint repeatedly, killed at one file operation after another; prints the remaining files.

Run with a new folder and how the checkpoint is put in place: ``exchange``, ``renames`` or ``files`` (in the current
folder). Every attempt is a forked process that sends itself SIGKILL.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_vbp.checkpoint.saving import save_checkpoint
from hf_vbp.errors import CheckpointError
from tests.checkpoint.helpers import make_pruned

WATCHED = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


def snapshot(folder: Path) -> dict[str, str]:
    """Return name to hash of the files in a folder that are not hidden."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items() if not name.startswith(".")
    }


def forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process and return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(point: int, place: Path, work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in WATCHED and str(arguments[0]).startswith(str(place)):
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(hook)
        work()

    return run


def overwriting(model: Any, folder: Path, how: str) -> Callable[[], None]:
    def run() -> None:
        if how == "files":
            os.chdir(folder)
        if how == "renames":
            from hf_vbp.checkpoint import placing

            placing.exchange = lambda first, second: False
        save_checkpoint(model, folder, files={"plan.json": "{}"}, verify=False, overwrite=True)

    return run


def refused(model: Any, folder: Path) -> Callable[[], None]:
    def run() -> None:
        try:
            save_checkpoint(model, folder, verify=False)
        except CheckpointError as error:
            if "not empty" in str(error):
                return
        raise SystemExit(1)

    return run


def main(work: Path, how: str) -> list[dict[str, Any]]:
    old, new = make_pruned(seed=5), make_pruned()
    pristine, wanted = work / "pristine", work / "wanted"
    save_checkpoint(old, pristine, files={"notes.json": "{}"}, verify=False)
    save_checkpoint(new, wanted, files={"plan.json": "{}"}, verify=False)
    for folder in (pristine, wanted):
        (folder / "README.md").write_text("mine")
    states = {
        json.dumps(snapshot(pristine), sort_keys=True): "old",
        json.dumps(snapshot(wanted), sort_keys=True): "new",
    }
    attempts = []
    for point in range(10_000):
        place = work / f"{point}"
        shutil.copytree(pristine, place / "out")

        def state(place: Path = place) -> str:
            if not (place / "out" / "config.json").exists():
                return "none"
            return states.get(json.dumps(snapshot(place / "out"), sort_keys=True), "mixed")

        code = forked(killed_at(point, place, overwriting(new, place / "out", how)))
        after = state()
        again = forked(refused(new, place / "out"))
        settled = state()
        last = forked(overwriting(new, place / "out", how))
        left = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.name.startswith(".")]
        attempts.append({"code": code, "after": after, "settled": settled, "again": again, "last": last,
                         "end": state(), "left": left})  # fmt: skip
        if code >= 0:
            break
    return attempts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
