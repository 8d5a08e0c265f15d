"""A cut at every single request of a push: the repository is unchanged or complete, and the same command repairs it.

A push without faults is counted first. Then, for each of its requests, from an empty Hub and with a new process: it
is killed when the request arrives (``drop``) or when its work is done and only the answer is missing
(``lose_answer``); or the connection breaks and the process lives. All of them are tried on a new repository and on
one with content that is overwritten, with Xet and without.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import add_base_model
from tests.hub.helpers import Client
from tests.hub.test_push import FILES, OWN
from tests.loopback_hub import LoggedRequest, LoopbackHub
from tests.loopback_hub.repository import Entry

NAME = "alice/pruned-vit"
OLD = {"README.md": Entry(b"# Mine\n"), "pytorch_model.bin": Entry(b"old weights", lfs=True)}


class Stage:
    """A Hub with a base model, maybe a repository with content, and a client that forks for every push."""

    def __init__(self, checkpoint: Path, home: Path, *, xet: bool, filled: bool) -> None:
        self.checkpoint, self.home, self.filled = checkpoint, home, filled
        self.hub = LoopbackHub(xet=xet)
        self.alice = self.hub.add_user("alice")
        self.pushes = 0

    def __enter__(self) -> "Stage":
        self.hub.__enter__()
        self.client = Client(self.hub, self.home, self.alice.token, "--fork")
        return self

    def __exit__(self, *error: Any) -> None:
        self.client.__exit__()
        self.hub.__exit__(*error)

    def set(self) -> None:
        """Begin again: nothing is stored, nothing was ever pushed."""
        self.hub.reset(stores=True)
        add_base_model(self.hub)
        if self.filled:
            self.hub.create(NAME).commit("refs/heads/main", OLD, "old", "", "alice")
        self.before = self.state()

    def push(self, fault: dict[str, Any] | None = None, *, kill: bool = False) -> dict[str, Any]:
        """Push, always with the same command, from a new process with an empty cache."""
        self.pushes += 1
        options = {"check_load": False, "overwrite": self.filled}
        home = str(self.home / str(self.pushes))
        self.client.send("push", directory=str(self.checkpoint), repo_id=NAME, options=options, home=home)
        child = self.client.receive()["pid"]
        if fault is not None:
            self.hub.fail(**fault, then=(lambda: os.kill(child, signal.SIGKILL)) if kill else None)
        assert self.client.process.stdin
        self.client.process.stdin.write("\n")
        self.client.process.stdin.flush()
        return self.client.receive()

    def state(self) -> dict[str, bytes]:
        """Return the files of the repository, without those that the Hub adds."""
        repository = self.hub.repositories.get(NAME)
        files = repository.files() if repository else {}
        return {path: data for path, data in files.items() if path not in OWN}

    def is_whole(self) -> bool:
        """Return whether it holds the whole checkpoint and nothing of the old one."""
        held = self.state()
        same = all(held.get(name) == (self.checkpoint / name).read_bytes() for name in FILES - {"README.md"})
        return same and set(held) == FILES

    def clean_log(self) -> list[LoggedRequest]:
        """Return the requests of a push without faults."""
        self.set()
        assert self.push()["status"] == "pushed"
        assert self.is_whole()
        return list(self.hub.log)

    def cut(self, at: int, kind: str, *, kill: bool) -> None:
        """Cut one push at one request and check what is left; then push again."""
        self.set()
        answer = self.push({"kind": kind, "at": at}, kill=kill)
        if kill:
            assert answer == {"died": -signal.SIGKILL}
        assert self.state() == self.before or self.is_whole(), f"half a push is left after {answer}"
        self.hub.faults.clear()
        answer = self.push()
        assert answer.get("status") in ("pushed", "unchanged"), answer
        assert self.is_whole()
        repository = self.hub.repositories[NAME]
        assert len(repository.history("main")) == 2 + self.filled  # none twice, none empty


CASES = [(xet, filled) for xet in (True, False) for filled in (False, True)]
IDS = [f"{'xet' if xet else 'lfs'}-{'overwrite' if filled else 'new'}" for xet, filled in CASES]


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["drop", "lose_answer"])
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_killed_at_the_commit(checkpoint: Path, tmp_path: Path, xet: bool, kind: str) -> None:
    with Stage(checkpoint, tmp_path, xet=xet, filled=True) as stage:
        log = stage.clean_log()
        stage.cut(next(at for at, entry in enumerate(log, 1) if "/commit/" in entry.path), kind, kill=True)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "connection"])
@pytest.mark.parametrize("kind", ["drop", "lose_answer"])
@pytest.mark.parametrize(("xet", "filled"), CASES, ids=IDS)
def test_a_cut_at_every_request(
    checkpoint: Path, tmp_path: Path, xet: bool, filled: bool, kind: str, kill: bool
) -> None:
    with Stage(checkpoint, tmp_path, xet=xet, filled=filled) as stage:
        log = stage.clean_log()
        for at in range(1, len(log) + 1):
            stage.cut(at, kind, kill=kill)
    print(f"\n{len(log)} requests, {len(log)} cut points")
