"""What the page refuses, and what visitors do not see of each other."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.loopback_hub import LoopbackHub, User
from tests.ui.conftest import Server
from tests.ui.test_page import add_model
from tests.ui.visitor import Visitor

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def slow_model(hub: LoopbackHub, alice: User, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose measurements take long enough to be cancelled."""
    folder = tmp_path_factory.mktemp("slow")
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 8, "num_attention_heads": 2}
    config = ViTConfig(image_size=64, patch_size=4, num_labels=3, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    add_model(hub, "alice/slow-vit", {path.name: path.read_bytes() for path in folder.iterdir()})
    return "alice/slow-vit"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("alice/nothing", "The config of alice/nothing cannot be loaded from the Hub"),
        ("no such id", "no such id"),
        ("", "There is no model"),
    ],
)
def test_a_bad_model_id(visitor: Visitor, alice: User, name: str, sentence: str) -> None:
    visitor.inspect(name)
    assert sentence in visitor.error()
    assert not visitor.at("step-images").is_visible()


def test_a_text_model(visitor: Visitor, hub: LoopbackHub, alice: User) -> None:
    config = BertConfig(architectures=["BertForMaskedLM"]).to_dict()
    add_model(hub, "alice/text", {"config.json": json.dumps(config).encode()})
    visitor.inspect("alice/text")
    assert "images" in visitor.error()
    # The next model needs no reload.
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    assert visitor.text("message") == ""


def test_words_find_models_on_the_hub(visitor: Visitor, slow_model: str) -> None:
    visitor.fill("model", "slow")
    visitor.click("search")
    visitor.at("found").get_by_label(slow_model).check()
    visitor.page.wait_for_function(
        "name => document.querySelector('#model input, #model textarea').value === name", arg=slow_model
    )
    visitor.click("inspect")
    visitor.wait("inspected", slow_model)


def test_two_visitors_share_the_queue_and_nothing_else(visit: Callable[..., Visitor], slow_model: str) -> None:
    first, second = visit(), visit()
    first.inspect(slow_model)
    first.wait("inspected", slow_model)
    first.gather()
    second.inspect("sample")
    second.wait("inspected", "sample")
    assert slow_model not in second.page.content()
    assert second.text("progress") == "No work is running."
    first.click("measure")
    first.wait("progress", "Measuring merged tokens and latency")
    second.click("gather")
    second.wait("progress", "waiting, 1 job before it in the queue")
    figures = first.text("figures")
    first.click("cancel")
    first.wait("progress", "Cancelled")
    second.wait("progress", "Statistics: done.")
    second.at("figures").locator("table").first.wait_for()
    # What the first visitor had before the cancelled work is still there.
    assert first.text("figures") == figures
    first.slide(60)
    assert second.text("figures") not in (figures, first.text("figures"))
    assert slow_model not in second.page.content()


def test_a_closed_tab_leaves_nothing(visit: Callable[..., Visitor], server: Server, slow_model: str) -> None:
    def folders() -> set[Path]:
        return set((server.log.parent / "tmp").glob("hf-vbp-ui-*/session-*"))

    before = folders()
    visitor = visit()
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    (made,) = folders() - before
    watcher = visit()
    visitor.leave()
    for _ in range(600):
        if not made.exists():
            break
        watcher.page.wait_for_timeout(100)
    assert not made.exists()


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_files_of_the_server_are_not_served(server: Server) -> None:
    home = server.log.parent
    (home / "secret.txt").write_text("secret")
    for path in (server.log, home / "secret.txt", "secret.txt", Path("/etc/passwd"), Path(__file__)):
        assert status_of(f"{server.url}gradio_api/file={path}") in (403, 404), path


def test_a_file_that_was_not_uploaded_is_not_read(visitor: Visitor, server: Server, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    visitor.upload([tmp_path / "a.png", tmp_path / "b.png"])
    changed: list[str] = []

    def forge(route: Any) -> None:
        body = json.loads(route.request.post_data)
        for value in body.get("data", []):
            if isinstance(value, list) and value and isinstance(value[0], dict) and "path" in value[0]:
                value[0]["path"] = str(server.log)
                changed.append(value[0]["path"])
        route.continue_(post_data=json.dumps(body))

    visitor.page.route("**/queue/join*", forge)
    visitor.click("gather")
    visitor.page.get_by_text("InvalidPathError").or_(visitor.page.get_by_text("Error")).first.wait_for()
    assert changed
    assert "No work is running." in visitor.text("progress")


def test_the_work_can_be_sent_as_a_job(visitor: Visitor, hub: LoopbackHub, alice: User) -> None:
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    visitor.at("jobs").get_by_role("button", name="Run it as a Job").click()
    visitor.click("start-job")
    visitor.wait("job-state", "RUNNING")
    job_id = visitor.at("job-id").locator("input, textarea").input_value()
    job = hub.jobs[job_id]
    command = [*job["command"], *job["arguments"]]
    expected = ["sample", "--data", "sample", "--limit", "128", "--ratio", "0.3", "--levers", "mlp"]
    assert command[-len(expected) - 3 :] == ["https://example.org/prune.py", *expected, "--push", "sample-pruned"]
    assert job["environment"] == {"HF_VBP_SOURCE": "https://example.org/hf_vbp.whl"}
    assert job["secrets"] == {"HF_TOKEN": alice.token}
    visitor.click("end-job")
    visitor.wait("job-state", "CANCELED")
    assert alice.token not in visitor.page.content()
    visitor.fill("job-id", "0123456789abcdef")
    visitor.click("read-job")
    assert "there is no such Job in this account" in visitor.error()
