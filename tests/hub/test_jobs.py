"""Jobs of the Hub, with the real client against the loopback Hub."""

from typing import Any

import pytest

from tests.hub.helpers import Client
from tests.loopback_hub import LoopbackHub

SCRIPT = "https://example.org/prune.py"
ARGUMENTS = ["sample", "--data", "sample", "--ratio", "0.3", "--push", "alice/small"]


def run(client: Client, code: str) -> Any:
    answer = client.ask("call", code=f"from hf_vbp.hub.jobs import *\n{code}")
    return answer["value"] if "value" in answer else f"{answer['error']}: {answer['message']}"


def start(client: Client, flavor: str = "cpu-upgrade", token: str = "None") -> Any:
    call = f"start_job({SCRIPT!r}, {ARGUMENTS}, flavor={flavor!r}, token={token}, environment={{'A': 'b'}})"
    return run(client, f"value = vars({call})")


def test_a_job_is_started_found_by_its_id_and_cancelled(client: Client, hub: LoopbackHub) -> None:
    started = start(client)
    job = hub.jobs[started["id"]]
    assert [*job["command"], *job["arguments"]][-len(ARGUMENTS) - 1 :] == [SCRIPT, *ARGUMENTS]
    assert job["environment"] == {"A": "b"}
    assert job["secrets"] == {"HF_TOKEN": client.token}
    assert job["labels"]["app"] == "hf-vbp"
    assert started["stage"] == "RUNNING"
    assert run(client, f"value = read_job({started['id']!r}, None).ended") is False
    assert run(client, f"value = cancel_job({started['id']!r}, None).stage") == "CANCELED"
    assert job["status"]["stage"] == "CANCELED"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("read_job('0123456789abcdef', None)", "there is no such Job in this account"),
        ("read_job('../alice', None)", "consists of letters and digits"),
    ],
)
def test_refusals_are_sentences(client: Client, code: str, sentence: str) -> None:
    assert sentence in run(client, code)


def test_an_account_without_credit(client: Client) -> None:
    assert "Jobs are billed, and this account has no credit" in start(client, "a100-large")


def test_a_job_needs_a_user(client: Client) -> None:
    assert start(client, token="False").startswith("ConfigurationError: A Job runs on the account of a user")
