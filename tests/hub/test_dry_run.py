"""A dry run with and without the Hub: what it shows, checks, and states that it did not check."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.helpers import run
from tests.hub.helpers import Client
from tests.hub.test_push import FILES, error_of
from tests.loopback_hub import LoopbackHub

# A port of this machine that nothing listens on.
NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": NOWHERE}], ids=["offline", "down"])
def test_a_dry_run_needs_no_hub(
    xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    with Client(xet_hub, tmp_path / "home", None, **environment) as client:
        answer = client.push(checkpoint, "alice/pruned-vit", dry_run=True)
        assert set(answer["changed"]) == FILES
        lines = answer["lines"]
        assert lines[0] == "Send to alice/pruned-vit:"
        unchecked = [line for line in lines if line.startswith("Not checked: ")]
        assert unchecked[0].startswith("Not checked: whether alice/pruned-vit exists, its content and visibility, and")
        assert ("HF_HUB_OFFLINE is set" if "HF_HUB_OFFLINE" in environment else "no connection") in unchecked[0]
        assert unchecked[1].startswith("Not checked: license and data sets in the card")
        assert answer["sentence"].startswith("Dry run: the checks of the folder passed, nothing was sent to ")
        # A name without namespace, which the Hub completes.
        assert client.push(checkpoint, "pruned-vit", dry_run=True)["lines"][0] == "Send to pruned-vit:"
        # A push does need the Hub, and an invalid name is refused by both.
        assert "HubError" in error_of(client.push(checkpoint, "alice/pruned-vit"))
        assert "not valid" in error_of(client.push(checkpoint, "alice/../x", dry_run=True))
    assert not xet_hub.log


def test_a_dry_run_without_the_hub_checks_the_folder(xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    with Client(xet_hub, tmp_path / "home", None, HF_HUB_OFFLINE="1") as client:
        (copy / "plan.json").write_text(json.dumps({"token": "hf_" + "a" * 34}), encoding="utf-8")
        assert "plan.json seems to hold a Hub token" in error_of(client.push(copy, "alice/x", dry_run=True))
        (copy / "model.safetensors").write_bytes(b"cut")
        (copy / "plan.json").write_text("{}", encoding="utf-8")
        assert "damaged or truncated" in error_of(client.push(copy, "alice/x", dry_run=True))


def test_a_dry_run_with_the_hub_leaves_only_the_permission_unchecked(
    client: Client, hub: LoopbackHub, checkpoint: Path
) -> None:
    answer = client.push(checkpoint, "alice/pruned-vit", dry_run=True)
    unchecked = [line for line in answer["lines"] if line.startswith("Not checked: ")]
    assert unchecked == ["Not checked: whether the token may write to alice/pruned-vit."]
    assert answer["sentence"].startswith("Dry run: all checks passed, nothing was sent to ")
    assert not [line for line in client.push(checkpoint, "alice/pruned-vit")["lines"] if "Not checked" in line]


def test_a_hub_that_refuses_is_an_error_of_the_dry_run(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, other_checkpoint: Path
) -> None:
    client.push(other_checkpoint, "alice/pruned-vit")
    assert "already holds" in error_of(client.push(checkpoint, "alice/pruned-vit", dry_run=True))


def test_the_command_shows_the_card_of_a_dry_run(
    checkpoint: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("hf_vbp.hub.push.check_loads", lambda *_: None)
    ran = run(["push", str(checkpoint), "alice/pruned-vit", "--dry-run"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    shown = ran.out.splitlines()
    start = shown.index("The card (README.md):")
    assert shown[start + 1] == "  ---"
    assert "  base_model: alice/base-vit" in shown
    assert shown[-1].startswith("Dry run: the checks of the folder passed")
    found = json.loads(
        run(["push", str(checkpoint), "alice/pruned-vit", "--dry-run", "--json"], capfd, monkeypatch).out
    )
    assert found["status"] == "dry_run"
    assert found["card"].startswith("---\n")
    assert len(found["not_checked"]) == 2
