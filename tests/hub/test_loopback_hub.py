"""The fixture itself: it must refuse the same requests as the Hub, or the other tests show nothing."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.hub.helpers import Client
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.card_rules import check_card
from tests.loopback_hub.xet_format import lz4_frame, ungroup

START = "from huggingface_hub import HfApi, CommitOperationAdd as Add\napi = HfApi()\n"


def run(client: Client, code: str) -> Any:
    answer = client.ask("call", code=START + code)
    return answer.get("value", answer.get("error"))


def test_an_uploaded_file_is_downloaded_unchanged(client: Client, hub: LoopbackHub) -> None:
    value = run(
        client,
        """
import random, struct
random.seed(0)
data = random.randbytes(150000) + bytes(150000) + b"pattern" * 20000
data += b"".join(struct.pack("<f", i * 0.001) for i in range(40000))
api.create_repo("alice/vit")
api.create_commit("alice/vit", [Add("model.safetensors", data), Add("a/b.txt", b"hello")], commit_message="m")
path = api.hf_hub_download("alice/vit", "model.safetensors")
value = open(path, "rb").read() == data and api.file_exists("alice/vit", "a/b.txt")
""",
    )
    assert value is True
    used = {entry.path for entry in hub.log if entry.origin == "cas"}
    assert bool(used) is hub.xet
    assert not [entry for entry in hub.log if entry.origin == "blob" and entry.authorization]


def test_large_objects_in_parts(tmp_path: Path) -> None:
    with LoopbackHub(xet=False, multipart_bytes=100_000) as hub:
        user = hub.add_user("alice")
        with Client(hub, tmp_path, user.token) as client:
            run(
                client,
                """
api.create_repo("alice/vit")
value = api.upload_file(path_or_fileobj=bytes(range(256)) * 1000, path_in_repo="x.safetensors", repo_id="alice/vit")
""",
            )
        assert hub.repositories["alice/vit"].files()["x.safetensors"] == bytes(range(256)) * 1000
        assert sum(entry.path.startswith("/parts") for entry in hub.log) == 4  # three parts and the completion


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("api.create_repo('bob/vit')", "HfHubHTTPError"),
        ("api.create_repo('alice/here')", "HfHubHTTPError"),
        ("api.model_info('alice/missing')", "RepositoryNotFoundError"),
        ("api.model_info('bob/private')", "RepositoryNotFoundError"),
        ("api.hf_hub_download('bob/gated', '.gitattributes')", "GatedRepoError"),
        ("api.model_info('alice/here', revision='nowhere')", "RevisionNotFoundError"),
        ("api.hf_hub_download('alice/here', 'missing.txt')", "RemoteEntryNotFoundError"),
        ("api.upload_file(path_or_fileobj=b'a', path_in_repo='a', repo_id='bob/open')", "HfHubHTTPError"),
        ("api.create_commit('alice/here', [Add('a', b'a')], commit_message='m', parent_commit='0' * 40)", "412"),
        ("api.upload_file(path_or_fileobj=b'x=hf_' + b'a' * 34, path_in_repo='a.txt', repo_id='alice/here')", "400"),
        ("api.create_commit('alice/here', [Add('README.md', b'---\\nlicense: GPL\\n---')], commit_message='m')", "V"),
    ],
)  # fmt: skip
def test_refusals(xet_hub: LoopbackHub, client: Client, code: str, error: str) -> None:
    xet_hub.create("alice/here")
    xet_hub.create("bob/private", private=True)
    xet_hub.create("bob/gated", gated=True)
    xet_hub.create("bob/open")
    before = {name: repository.head.sha for name, repository in xet_hub.repositories.items()}
    answer = client.ask("call", code=START + code)
    names = {"412": "HfHubHTTPError", "400": "BadRequestError", "V": "ValueError"}
    assert answer["error"] == names.get(error, error), answer
    if error.isdigit():
        assert error in answer["message"] or xet_hub.log[-1].status == int(error)
    assert before == {name: repository.head.sha for name, repository in xet_hub.repositories.items()}


def test_roles(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    xet_hub.create("carol/vit")
    reader = xet_hub.add_user("carol", role="read")
    with Client(xet_hub, tmp_path, reader.token) as client:
        assert run(client, "value = api.whoami()['auth']['accessToken']['role']") == "read"
        assert run(client, "api.upload_file(path_or_fileobj=b'', path_in_repo='a', repo_id='carol/vit')") == (
            "HfHubHTTPError"
        )
    assert xet_hub.log[-1].status == 403
    assert reader.token not in "".join(map(str, xet_hub.log))


def post(hub: LoopbackHub, user: User, operations: list[dict[str, Any]]) -> int:
    """Commit by hand, as a client with bugs would."""
    lines = [{"key": "header", "value": {"summary": "by hand"}}, *operations]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    headers = {"Authorization": f"Bearer {user.token}"}
    request = urllib.request.Request(f"{hub.url}/api/models/alice/here/commit/main", body, headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}}, 200),
        ({"key": "file", "value": {"path": "a.bin", "content": "AAE=", "encoding": "base64"}}, 400),
        ({"key": "file", "value": {"path": "../a", "content": "YQ==", "encoding": "base64"}}, 400),
        ({"key": "lfsFile", "value": {"path": "a", "algo": "sha256", "oid": "0" * 64, "size": 1}}, 400),
        ({"key": "deletedFile", "value": {"path": "missing"}}, 404),
    ],
    ids=["text", "binary", "path", "unknown-object", "delete-missing"],
)
def test_commits_by_hand(xet_hub: LoopbackHub, alice: User, operation: dict[str, Any], status: int) -> None:
    xet_hub.create("alice/here")
    assert post(xet_hub, alice, [operation]) == status


def test_a_wrong_hash_is_refused(xet_hub: LoopbackHub) -> None:
    url = f"{xet_hub.blob_url}/blobs/{'0' * 64}?signature={xet_hub.signature}"
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        urllib.request.urlopen(urllib.request.Request(url, b"other", method="PUT"))
    caught.value.close()
    assert "0" * 64 not in xet_hub.blobs


@pytest.mark.parametrize(
    "metadata",
    [
        "license: GPL-3.0-or-later",
        "base_model: /home/me/vit",
        "base_model_relation: pruned",
        "tags: pruned",
        "a: 1\na: 2",
    ],
)
def test_bad_cards(metadata: str) -> None:
    assert check_card(f"---\n{metadata}\n---\ntext")[0]


def test_unpacking() -> None:
    # "abcabcabc..." as one literal run of three and one overlapping match, in a frame without checksums.
    block = bytes([0x3F]) + b"abc" + bytes([3, 0, 20 - 19]) + bytes([0x50]) + b"xyzzy"
    frame = b"\x04\x22\x4d\x18" + bytes([0x60, 0x40, 0x82]) + len(block).to_bytes(4, "little") + block + bytes(4)
    assert lz4_frame(frame) == b"abc" + (b"abc" * 7)[:20] + b"xyzzy"
    assert ungroup(bytes([0, 4, 8, 1, 5, 2, 6, 3, 7])) == bytes(range(9))


def test_the_command_line_of_the_client(xet_hub: LoopbackHub, alice: User, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    code = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    command = [sys.executable, "-c", code, "upload", "alice/notes", "notes.txt"]
    environment = xet_hub.environment(tmp_path / "home", alice.token)
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert xet_hub.repositories["alice/notes"].files()["notes.txt"] == b"hello"
