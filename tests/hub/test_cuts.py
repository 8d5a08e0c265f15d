"""A cut at every single request of a push: the repository is as it was, or holds all, and the same command heals.

A push without faults is counted first. Then, for each of its requests, a new Hub and a new client: the client is
killed when the request arrives (``drop``) or when its work is done and only the answer is missing
(``lose_answer``); or the connection breaks and the client lives. All of them are tried on a new repository and on
one with content that is overwritten, with Xet and without.
"""

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
    """A Hub with a base model, and maybe a repository with content."""

    def __init__(self, *, xet: bool, filled: bool, home: Path) -> None:
        self.hub, self.home, self.filled = LoopbackHub(xet=xet), home, filled
        self.alice = self.hub.add_user("alice")
        add_base_model(self.hub)
        if filled:
            self.hub.create(NAME).commit("refs/heads/main", OLD, "old", "", "alice")
        self.before = self.state()
        self.clients = 0

    def __enter__(self) -> "Stage":
        self.hub.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hub.__exit__(*error)

    def client(self) -> Client:
        """Start a client that has seen nothing yet."""
        self.clients += 1
        return Client(self.hub, self.home / str(self.clients), self.alice.token)

    def push(self, client: Client, checkpoint: Path) -> None:
        """Ask for the push, always with the same command."""
        options = {"check_load": False, "overwrite": self.filled}
        client.send("push", directory=str(checkpoint), repo_id=NAME, options=options)

    def state(self) -> dict[str, bytes]:
        """Return what the repository holds, without what the Hub itself puts there."""
        repository = self.hub.repositories.get(NAME)
        files = repository.files() if repository else {}
        return {path: data for path, data in files.items() if path not in OWN}

    def is_whole(self, checkpoint: Path) -> bool:
        """Tell whether it holds the checkpoint, all of it and nothing of the old one."""
        held = self.state()
        same = all(held.get(name) == (checkpoint / name).read_bytes() for name in FILES - {"README.md"})
        return same and set(held) == FILES


def requests_of_a_push(checkpoint: Path, home: Path, *, xet: bool, filled: bool) -> list[LoggedRequest]:
    """Return the requests of a push without faults."""
    with Stage(xet=xet, filled=filled, home=home) as stage, stage.client() as client:
        stage.push(client, checkpoint)
        assert client.receive()["status"] == "pushed"
        assert stage.is_whole(checkpoint)
        return list(stage.hub.log)


def cut(checkpoint: Path, home: Path, at: int, *, xet: bool, filled: bool, kind: str, kill: bool) -> None:
    """Cut one push at one request and check what is left; then push again."""
    with Stage(xet=xet, filled=filled, home=home) as stage:
        with stage.client() as client:
            fault = stage.hub.fail(kind, at=at, then=client.process.kill if kill else None)
            stage.push(client, checkpoint)
            answer = client.receive()
        # A client that lives may never come to that request (hf-xet sends some only when it feels like it).
        assert fault.happened or answer.get("status") == "pushed"
        assert stage.state() == stage.before or stage.is_whole(checkpoint), f"half a push is left after {answer}"
        stage.hub.faults.clear()
        with stage.client() as client:
            stage.push(client, checkpoint)
            answer = client.receive()
        assert answer.get("status") in ("pushed", "unchanged"), answer
        assert stage.is_whole(checkpoint)
        repository = stage.hub.repositories[NAME]
        assert len(repository.history("main")) == 2 + filled  # none twice, none empty


CASES = [(xet, filled) for xet in (True, False) for filled in (False, True)]
IDS = [f"{'xet' if xet else 'lfs'}-{'overwrite' if filled else 'new'}" for xet, filled in CASES]


@pytest.mark.parametrize("kind", ["drop", "lose_answer"])
@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_killed_at_the_commit(checkpoint: Path, tmp_path: Path, xet: bool, kind: str) -> None:
    log = requests_of_a_push(checkpoint, tmp_path / "clean", xet=xet, filled=True)
    at = next(index for index, entry in enumerate(log, 1) if "/commit/" in entry.path)
    cut(checkpoint, tmp_path / "cut", at, xet=xet, filled=True, kind=kind, kill=True)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "connection"])
@pytest.mark.parametrize("kind", ["drop", "lose_answer"])
@pytest.mark.parametrize(("xet", "filled"), CASES, ids=IDS)
def test_a_cut_at_every_request(
    checkpoint: Path,
    tmp_path: Path,
    xet: bool,
    filled: bool,
    kind: str,
    kill: bool,
) -> None:
    log = requests_of_a_push(checkpoint, tmp_path / "clean", xet=xet, filled=filled)
    for at in range(1, len(log) + 1):
        cut(checkpoint, tmp_path / str(at), at, xet=xet, filled=filled, kind=kind, kill=kill)
    print(f"\n{len(log)} requests, {len(log)} cut points ({kind}, {'killed' if kill else 'connection'})")
