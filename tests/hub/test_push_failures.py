"""Every failure of the Hub and of the network: one sentence with the next step, or a second try that succeeds."""

from pathlib import Path
from typing import Any

import pytest

from tests.hub.helpers import Client
from tests.hub.test_push import FILES, OWN, error_of
from tests.loopback_hub import LoopbackHub, User


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "weights contain valid Hugging Face secrets", "contain valid Hugging Face secrets"),
        (401, "Invalid credentials in Authorization header", "does not accept the token"),
        (402, "Payment required", "billing"),
        (403, "no", "write permission"),
        (403, "Private repository storage limit reached", "storage of this account is full"),
        (404, "gone", "check the name"),
        (409, "conflict", "already, or another operation"),
        (412, "A commit has happened since", "another commit was made"),
        (413, "Payload Too Large", "smaller shards"),
        (429, "slow down", "too many requests: wait"),
        (500, "oops", "the Hub failed (status 500)"),
        (503, "oops", "the Hub failed (status 503)"),
    ],
)
def test_statuses_of_the_commit(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, status: int, message: str, expected: str
) -> None:
    xet_hub.fail("status", path="/commit/main", status=status, message=message, times=99)
    text = error_of(client.push(checkpoint, "alice/vit"))
    assert text.startswith("HubError: Committing (alice/vit) failed: ")
    assert expected in text
    assert text.count("\n") == 0
    assert set(xet_hub.repositories["alice/vit"].files()) == OWN
    xet_hub.faults.clear()
    assert client.push(checkpoint, "alice/vit")["status"] == "pushed"


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("status", {"path": "/api/repos/create", "status": 503}),
        ("drop", {"path": "/api/repos/create"}),
        ("lose_answer", {"path": "/api/repos/create"}),
        ("status", {"path": "/commit/main", "status": 500, "times": 2}),
        ("status", {"path": "/commit/main", "status": 429, "headers": {"Retry-After": "3"}}),
        ("drop", {"path": "/commit/main"}),
        ("drop", {"path": "/commit/main", "reset": True}),
        ("lose_answer", {"path": "/commit/main"}),
        ("cut_body", {"path": "/commit/main", "keep_bytes": 5}),
        ("drop", {"path": "/api/validate-yaml"}),
        ("status", {"path": "/api/validate-yaml", "status": 502}),
        ("drop", {"path": "/preupload/"}),
        ("drop", {"method": "GET", "path": "/api/models/alice/vit$"}),
        ("status", {"method": "GET", "path": "/api/models/alice/vit$", "status": 503, "times": 2}),
        ("drop", {"method": "GET", "path": "alice/base-vit"}),
        ("cut_body", {"method": "GET", "path": "/tree/", "keep_bytes": 9}),
    ],
)
def test_one_transient_failure_is_survived(
    client: Client, hub: LoopbackHub, checkpoint: Path, fault: str, options: dict[str, Any]
) -> None:
    hub.fail(fault, **{"method": "POST", **options})
    assert client.push(checkpoint, "alice/vit")["status"] == "pushed"
    repository = hub.repositories["alice/vit"]
    assert set(repository.files()) == FILES | OWN
    assert len(repository.commits) == 2


def test_a_commit_whose_answer_is_lost_every_time(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    xet_hub.fail("lose_answer", method="POST", path="/commit/main", times=99)
    assert client.push(checkpoint, "alice/vit", attempts=1)["error"] == "HubError"
    assert client.push(checkpoint, "alice/vit")["status"] == "unchanged"
    assert len(xet_hub.repositories["alice/vit"].commits) == 2


def test_a_commit_that_cannot_be_read_back_is_reported_as_made(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path
) -> None:
    made = xet_hub.create("alice/vit")
    xet_hub.fail("status", method="GET", path=f"/tree/(?!{made.head.sha})", status=503, times=99)
    text = error_of(client.push(checkpoint, "alice/vit"))
    assert text.startswith(f"HubError: The commit {made.head.sha} was made, but reading it back")
    xet_hub.faults.clear()
    assert client.push(checkpoint, "alice/vit")["status"] == "unchanged"


@pytest.mark.parametrize("path", ["/commit/main", "/api/validate-yaml"])
def test_a_page_of_a_proxy_is_not_a_bad_card(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.loopback_hub import serving

    page = serving.Response(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
    monkeypatch.setattr(serving.Refusal, "response", lambda self: page)
    xet_hub.fail("status", path=path, status=502, times=99)
    text = error_of(client.push(checkpoint, "alice/vit"))
    assert "not JSON" in text or "the Hub failed" in text


def test_a_full_account(checkpoint: Path, tmp_path: Path) -> None:
    with LoopbackHub(storage_limit=1000) as hub:
        alice = hub.add_user("alice")
        with Client(hub, tmp_path, alice.token) as client:
            assert "storage of this account is full" in error_of(client.push(checkpoint, "alice/vit"))


def test_no_network(xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path) -> None:
    with Client(xet_hub, tmp_path, alice.token, HF_ENDPOINT="http://127.0.0.1:9") as client:
        assert "no connection" in error_of(client.push(checkpoint, "alice/vit"))


def test_offline_mode(xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path) -> None:
    with Client(xet_hub, tmp_path, alice.token, HF_HUB_OFFLINE="1") as client:
        assert "HF_HUB_OFFLINE is set" in error_of(client.push(checkpoint, "alice/vit"))
    assert not xet_hub.log


def test_a_wrong_token(xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    with Client(xet_hub, tmp_path, xet_hub.new_secret("hf")) as client:
        assert "does not accept the token" in error_of(client.push(checkpoint, "alice/vit"))


def test_a_token_that_may_only_read(xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    reader = xet_hub.add_user("alice", role="read")
    with Client(xet_hub, tmp_path, reader.token) as client:
        assert "write permission" in error_of(client.push(checkpoint, "alice/vit"))


def test_a_silent_hub_is_no_missing_base_model(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    xet_hub.fail("status", path="alice/base-vit", status=503, times=99)
    assert "card of the base model" in error_of(client.push(checkpoint, "alice/vit"))
    assert "alice/vit" not in xet_hub.repositories
