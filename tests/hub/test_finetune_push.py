"""``training.push_to_hub`` of ``hf-vbp finetune``: one commit with the finished checkpoint, checked before loading."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.helpers import Client
from tests.hub.test_push import FILES, OWN
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.repository import Entry
from tests.workflow.finetune.helpers import make_work

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"))


def finetune(hub: LoopbackHub, user: User, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["finetune", "pruned", "--data", "train", "--batch-size", "10", "training.use_cpu=true",
             "training.max_steps=1", "training.dataloader_pin_memory=false", "training.push_to_hub=true"]  # fmt: skip
    environment = hub.environment(work / "home", user.token, PYTHONPATH=str(Path(__file__).parents[2]))
    command = [sys.executable, "-m", "hf_vbp", *words, *arguments]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)


def test_the_finished_checkpoint_is_pushed_once(client: Client, xet_hub: LoopbackHub, alice: User, work: Path) -> None:
    done = finetune(xet_hub, alice, work, "--output", "tuned")
    assert done.returncode == 0, done.stderr
    assert alice.token not in done.stdout + done.stderr
    # By default the name of the output, in the namespace of the user.
    repository = xet_hub.repositories["alice/tuned"]
    assert len(repository.commits) == 2
    assert set(repository.files()) == FILES | OWN | {"recipe.yaml"}
    assert "Pushed 8 of 8 files" in done.stderr
    assert client.push(work / "tuned", "alice/tuned")["status"] == "unchanged"


@pytest.mark.parametrize(
    ("name", "message"),
    [("alice/tu ned", "the repository id is not valid"), ("alice/full", "alice/full already holds notes.md")],
)
def test_a_target_that_cannot_be_pushed_to_is_refused_before_loading(
    xet_hub: LoopbackHub, alice: User, work: Path, name: str, message: str
) -> None:
    repository = xet_hub.create("alice/full")
    repository.commit("refs/heads/main", {"notes.md": Entry(b"text")}, "notes", "", "alice")
    done = finetune(xet_hub, alice, work, "--output", "refused", f"training.hub_model_id={name}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (work / "refused").exists()


def test_a_checkpoint_without_results_is_refused_before_training(
    xet_hub: LoopbackHub, alice: User, work: Path
) -> None:
    done = finetune(xet_hub, alice, work, "--output", "other", "model=dense", "training.hub_model_id=alice/other")
    assert done.returncode == 2
    assert "dense has no vbp_results.json, from which the card of a push is made" in done.stderr
    assert "alice/other" not in xet_hub.repositories
