"""The page in a real browser, served by ``hf-vbp ui``, against the loopback Hub."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hf_vbp
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.repository import Entry
from tests.ui.conftest import Server
from tests.ui.visitor import Visitor

pytestmark = pytest.mark.browser
SAMPLE = hf_vbp.sample_model_path()
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


def add_model(hub: LoopbackHub, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> None:
    repository = hub.create(repo_id, private=private)
    entries = {name: Entry(data, lfs=name.endswith(".safetensors")) for name, data in files.items()}
    for entry in entries.values():
        hub.blobs[entry.sha256] = entry.data
    repository.commit("refs/heads/main", {**repository.head.files, **entries}, "add", "", repository.namespace)


@pytest.fixture(scope="module")
def model(hub: LoopbackHub, alice: User) -> str:
    """A private model of alice."""
    files = {name: (Path(SAMPLE) / name).read_bytes() for name in MODEL_FILES}
    add_model(hub, "alice/tiny-vit", files, private=True)
    return "alice/tiny-vit"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty pictures of two formats; two have the same name, and one is none."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{number}.{'png' if number % 2 else 'jpg'}" for number in range(18)]
    paths += [folder / "other" / "0.jpg", folder / "broken.png"]
    (folder / "other").mkdir()
    for path in paths[:-1]:
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    paths[-1].write_text("no picture")
    return paths


def in_a_fresh_process(server_environment: dict[str, str], code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], env=server_environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def comparison(name: str, folder: Path) -> str:
    """Code that prints how far the outputs of two checkpoints are from each other, and the parameters of the first."""
    return f"""if True:
        import json, torch, hf_vbp
        from transformers import AutoModelForImageClassification as Auto
        size = json.load(open({str(folder / "config.json")!r}))["image_size"]
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        models = [Auto.from_pretrained(one).eval() for one in ({name!r}, {str(folder)!r})]
        logits = [model(pixel_values=pixels).logits for model in models]
        print(json.dumps([float((logits[0] - logits[1]).abs().max()), sum(p.numel() for p in models[0].parameters())]))
    """


def test_from_a_private_model_and_uploaded_pictures_to_a_repository(
    visitor: Visitor,
    hub: LoopbackHub,
    alice: User,
    server: Server,
    model: str,
    pictures: list[Path],
    tmp_path: Path,
) -> None:
    first = len(hub.log)
    visitor.inspect(model)
    visitor.wait("inspected", "MLPs that can be pruned")
    assert "ViTForImageClassification" in visitor.text("inspected")
    # The config alone: no weights were requested.
    assert not [one for one in hub.log[first:] if "model.safetensors" in one.path and "/resolve/" in one.path]
    visitor.upload(pictures)
    visitor.gather()
    assert "Skipped 1 images that cannot be decoded" in visitor.text("progress")
    visitor.slide(50)
    half = {row: visitor.kept(row) for row in ("Parameters", "MACs", "Predicted output error")}
    visitor.slide(20)
    less = {row: visitor.kept(row) for row in half}
    assert all(float(less[row].split()[0]) > float(half[row].split()[0]) for row in ("Parameters", "MACs"))
    assert less["Predicted output error"] != half["Predicted output error"]
    visitor.slide(50)
    assert {row: visitor.kept(row) for row in half} == half
    visitor.click("prune")
    visitor.wait("progress", "Pruning: done.")
    visitor.wait("receipt", "Receipt")
    assert visitor.at("receipt").locator("tr", has_text="remote_code").locator("td").last.inner_text() == "0"
    with visitor.page.expect_download() as download:
        visitor.click("download")
    download.value.save_as(tmp_path / "model.zip")
    visitor.click("preview-card")
    card = visitor.at("card").locator("textarea")
    card.wait_for()
    assert "base_model: alice/tiny-vit" in card.input_value()
    assert "alice/tiny-vit-pruned" not in hub.repositories
    visitor.click("push")
    visitor.wait("pushed", "Pushed")
    pushed = hub.repositories["alice/tiny-vit-pruned"]
    assert pushed.private
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "model")
        assert archive.read("model.safetensors") == pushed.files()["model.safetensors"]
    results = json.loads(pushed.files()["vbp_results.json"])
    assert results["data"]["calibration"]["source"] == "uploaded/pictures"
    assert results["plan"]["ratio"] == pytest.approx(0.5, abs=0.01)
    kept = results["cost"]["pruned"]["parameters"] / results["cost"]["dense"]["parameters"]
    assert half["Parameters"] == f"{100 * kept:.1f} %"
    environment = hub.environment(tmp_path / "hf", token=alice.token, PYTHONPATH=str(Path(__file__).parents[2]))
    found = in_a_fresh_process(environment, comparison("alice/tiny-vit-pruned", tmp_path / "model"))
    assert found == [0.0, results["cost"]["pruned"]["parameters"]]
    assert alice.token not in visitor.page.content()
    assert str(Path.home()) not in json.dumps(results)


@pytest.mark.slow
def test_the_budget_follows_levers_and_measurements(visitor: Visitor) -> None:
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    visitor.gather()
    visitor.choose("kind", "Latency to keep")
    visitor.wait("figures", "The latency of this model was not measured")
    visitor.click("measure")
    visitor.wait("progress", "Measurements: done.")
    visitor.choose("kind", "MACs to keep")
    visitor.wait("figures", "of the MACs kept")
    assert visitor.kept("Merged tokens") == "0"
    visitor.choose("tokens", "Merge tokens too")
    visitor.wait("figures", "Merged tokens before each block (estimate)")
    assert float(visitor.kept("MACs").split()[0]) <= 80.0
    assert "nats" in visitor.kept("Output distance")
    assert int(visitor.kept("Merged tokens")) > 0
    visitor.click("sweep")
    visitor.wait("progress", "Curve: done.")
    visitor.at("curve").locator("canvas, svg").first.wait_for()


def test_the_keyboard_moves_the_slider(visitor: Visitor) -> None:
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    visitor.gather()
    before = visitor.text("figures")
    slider = visitor.at("share").locator("input[type=range]")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    visitor.wait("figures", "Cost with 35 %")
    assert visitor.text("figures") != before
    assert slider.input_value() == "35"
    unnamed = visitor.page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')]
            .filter(one => one.offsetParent && one.type !== 'file')
            .filter(one => !(one.labels?.length || one.ariaLabel || one.innerText.trim() || one.title))
            .map(one => one.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


def test_a_phone_needs_no_sideways_scrolling(visit: Callable[..., Visitor]) -> None:
    phone = visit(viewport={"width": 390, "height": 844}, color_scheme="dark")
    phone.inspect("sample")
    phone.wait("inspected", "MLPs that can be pruned")
    phone.gather()
    width = phone.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    assert phone.page.evaluate("document.body.classList.contains('dark')")


def test_nothing_is_loaded_from_elsewhere(visitor: Visitor, server: Server) -> None:
    visitor.inspect("sample")
    visitor.wait("inspected", "MLPs that can be pruned")
    own = (server.url, "data:", "blob:")
    assert [url for url in visitor.requests if not url.startswith(own)] == []
