"""Every code block of a card is run, in a fresh process, against the Hub that the card was pushed to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_model
from tests.hub.helpers import Client
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.repository import Entry

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)
NAME = "alice/pruned-vit"


def blocks(hub: LoopbackHub, language: str) -> list[str]:
    card = hub.repositories[NAME].files()["README.md"].decode()
    return [match[2] for match in BLOCK.finditer(card) if match[1] == language]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has: a photograph, and a folder of them."""
    from PIL import Image

    for index in range(6):
        path = tmp_path / "photos" / f"LABEL_{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 30 + index).convert("RGB").save(path)
    Image.effect_noise((64, 48), 60).save(tmp_path / "photo.jpg")
    return tmp_path


def run(command: list[str], hub: LoopbackHub, alice: User, folder: Path, **more: str) -> str:
    """Run a command as a stranger would, with an empty cache."""
    environment = hub.environment(folder / "home", alice.token, **more)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert alice.token not in done.stdout + done.stderr
    return done.stdout


def test_there_is_no_block_that_is_not_run(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, NAME)
    card = xet_hub.repositories[NAME].files()["README.md"].decode()
    languages = [match[1] for match in BLOCK.finditer(card)]
    assert languages == ["python", "python", "python", "text", "bash", "bibtex"]


# The third block holds the first.
@pytest.mark.parametrize(
    "index", [pytest.param(0, marks=pytest.mark.slow), 1, 2], ids=["import", "remote-code", "classify"]
)
def test_python_blocks(
    client: Client, xet_hub: LoopbackHub, alice: User, checkpoint: Path, folder: Path, index: int
) -> None:
    client.push(checkpoint, NAME)
    block = blocks(xet_hub, "python")[index]
    assert NAME in block
    check = "print('loaded', [layer.mlp.fc1.out_features for layer in model.vit.layers])\n"
    if index == 1:  # without the package, so it must not be importable at all
        block = "import sys\nsys.modules['hf_vbp'] = None\n" + block
    output = run([sys.executable, "-c", block + check], xet_hub, alice, folder)
    assert "loaded [5, 48, 17]" in output
    if index == 2:
        assert "LABEL_" in output


@pytest.mark.slow
def test_python_blocks_without_xet(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    with LoopbackHub(xet=False) as hub:
        alice = hub.add_user("alice")
        with Client(hub, tmp_path / "client", alice.token) as client:
            client.push(checkpoint, NAME, base_model="alice/base-vit")
        for block in blocks(hub, "python"):
            run([sys.executable, "-c", block], hub, alice, folder)


@pytest.mark.slow
def test_the_command_of_the_card(
    client: Client, xet_hub: LoopbackHub, alice: User, checkpoint: Path, folder: Path
) -> None:
    """The base model lies on the Hub, the images in a folder, as the card says."""
    from transformers import ViTImageProcessor

    make_model("vit").save_pretrained(folder / "base")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "base")
    files = {path.name: Entry(path.read_bytes(), lfs=path.suffix != ".json") for path in (folder / "base").iterdir()}
    base = xet_hub.repositories["alice/base-vit"]
    base.commit("refs/heads/main", {**base.head.files, **files}, "model", "", "alice")
    client.push(checkpoint, NAME)
    (block,) = blocks(xet_hub, "bash")
    assert block.startswith("hf-vbp prune alice/base-vit --data photos")
    code = "import sys; from hf_vbp.cli import main; sys.argv[0] = 'hf-vbp'; main()"
    run([sys.executable, "-c", code, *block.split()[1:]], xet_hub, alice, folder)
    assert (folder / "pruned-vit" / "vbp_results.json").is_file()


@pytest.mark.slow
def test_a_push_that_loads_first(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    assert client.push(checkpoint, NAME, check_load=True)["status"] == "pushed"


@pytest.mark.slow
def test_the_command_line_pushes_and_audits(xet_hub: LoopbackHub, alice: User, checkpoint: Path, folder: Path) -> None:
    code = "import sys; from hf_vbp.cli import main; sys.argv[0] = 'hf-vbp'; main()"
    output = run([sys.executable, "-c", code, "push", str(checkpoint), NAME], xet_hub, alice, folder)
    assert "Pushed 7 of 7 files" in output
    output = run([sys.executable, "-c", code, "audit", NAME], xet_hub, alice, folder)
    assert "FAILED" not in output
    assert "loading by remote_code" in output
