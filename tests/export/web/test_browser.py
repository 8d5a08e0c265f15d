"""The page in a real headless Chromium, against a server on the loopback interface."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from hf_vbp.hub.push_space import SPACE_HEADERS
from tests.export.web.helpers import PATIENCE, ROOT, served

expect = pytest.importorskip("playwright.sync_api").expect

READY = "Ready. Choose a picture."


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    expect(page.get_by_role("status")).to_have_text(READY, timeout=PATIENCE)


def card(page: Any, model: str) -> Any:
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=model, exact=True))


def shown_scores(page: Any, model: str) -> dict[str, float]:
    rows = card(page, model).locator("tbody tr").all()
    return {row.locator("td").first.inner_text(): float(row.locator("data").get_attribute("value")) for row in rows}


def choose(page: Any, picture: Path) -> None:
    """Choose a picture, and wait for the results of all models."""
    page.get_by_label("Choose a picture").set_input_files(picture)
    wait_for_results(page, picture.name)


def wait_for_results(page: Any, name: str) -> None:
    expect(page.get_by_role("figure")).to_contain_text(name, timeout=PATIENCE)
    expect(page.get_by_role("status")).to_contain_text("Pruned: ", timeout=PATIENCE)
    expect(page.get_by_role("button", name="Measure")).to_be_enabled(timeout=PATIENCE)


def best_of(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda label: -scores[label])[:5]


def test_scores_are_those_of_python_and_photographs_get_the_same_answer(
    page: Any, address: str, exported: Path, reference: dict[str, Any]
) -> None:
    open_page(page, address)
    for name, by_model in reference.items():
        choose(page, exported / "pictures" / name)
        for model, scores in by_model.items():
            shown, expected = shown_scores(page, model), scores["fp32"]
            assert list(shown) == best_of(expected), (name, model)
            # Other decoders of JPEG differ by a level or two.
            tolerance = 1e-4 if name.endswith(".png") else 2e-2
            assert shown == pytest.approx({label: expected[label] for label in shown}, abs=tolerance), (name, model)
            expect(card(page, model)).to_contain_text(f"{100 * max(shown.values()):.1f}%")
            expect(card(page, model)).to_contain_text("ms (one run, 1 thread). Resizing")
        answers = " ".join(f"{model}: {best_of(scores['fp32'])[0]}." for model, scores in by_model.items())
        expect(page.get_by_role("status")).to_have_text(answers)


def test_the_precision_is_chosen_for_each_model(
    page: Any, address: str, site: Path, exported: Path, reference: dict[str, Any]
) -> None:
    open_page(page, address)
    picture = exported / "pictures" / "own_size_0.png"
    choose(page, picture)
    dense = shown_scores(page, "Dense")
    page.get_by_label("Precision of Pruned").select_option("8 bits")
    size = math.ceil((site / "onnx/model_quantized.onnx").stat().st_size / 1000)
    expect(card(page, "Pruned")).to_contain_text(f"8 bits, {size} kB")
    # The dense model has one file.
    expect(page.get_by_label("Precision of Dense")).to_be_hidden()
    expected = reference[picture.name]["Pruned"]
    # Kernels of int8 round differently from one machine to the next.
    best = best_of(expected["q8"])[0]
    expect(card(page, "Pruned").locator("tbody td").first).to_have_text(best, timeout=PATIENCE)
    expect(page.get_by_role("button", name="Measure")).to_be_enabled(timeout=PATIENCE)
    shown = shown_scores(page, "Pruned")
    assert shown == pytest.approx({label: expected["q8"][label] for label in shown}, abs=2e-2)
    assert max(abs(shown[label] - expected["fp32"][label]) for label in shown) > 1e-4
    assert shown_scores(page, "Dense") == dense
    page.get_by_role("button", name="Measure the time of 20 runs").click()
    for model in ("Pruned", "Dense"):
        expect(card(page, model)).to_contain_text("median of 20 runs", timeout=PATIENCE)
        # The results are those of the picture still.
        expect(card(page, model).locator("tbody tr")).to_have_count(5)


def test_a_bad_file_gives_a_sentence_and_the_next_picture_works(page: Any, address: str, exported: Path) -> None:
    open_page(page, address)
    bad = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.get_by_label("Choose a picture").set_input_files(bad)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(
        "notes.png is not a picture that this browser can read. Choose a PNG, JPEG or WebP file.", timeout=PATIENCE
    )
    expect(page.get_by_role("button", name="Measure")).to_be_disabled()
    choose(page, exported / "pictures" / "photograph_1.jpg")
    expect(alert).to_have_text("")
    page.get_by_label("Choose a picture").set_input_files(bad)
    expect(alert).to_contain_text("notes.png is not a picture")
    # No result of an earlier picture is left.
    expect(page.locator("tbody tr")).to_have_count(0)


def drop(page: Any, files: dict[str, bytes]) -> None:
    page.evaluate(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of Object.entries(files)) {
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            }
            const target = document.getElementById("hint");
            for (const type of ["dragover", "drop"]) {
                target.dispatchEvent(
                    new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
            }
        }""",
        {name: list(content) for name, content in files.items()},
    )


def test_a_picture_is_taken_by_drop(page: Any, address: str, exported: Path) -> None:
    open_page(page, address)
    drop(page, {})
    expect(page.get_by_role("alert")).to_contain_text("Drop a picture file, or choose one.")
    drop(page, {"dropped.png": (exported / "pictures" / "own_size_0.png").read_bytes()})
    wait_for_results(page, "dropped.png, 24 \N{MULTIPLICATION SIGN} 24 pixels")
    assert page.url == address


def test_a_picture_is_taken_by_the_camera(context: Any, page: Any, address: str) -> None:
    open_page(page, address)
    camera = page.get_by_role("button", name="Use the camera")
    camera.click()
    expect(page.get_by_role("alert")).to_contain_text("The camera was not allowed.")
    context.grant_permissions(["camera"], origin=address.rstrip("/"))
    camera.click()
    shoot = page.get_by_role("button", name="Take the picture")
    expect(shoot).to_be_focused()
    expect(page.get_by_role("alert")).to_have_text("")
    shoot.press("Enter")
    wait_for_results(page, "Picture of the camera")
    close = page.get_by_role("button", name="Close the camera")
    expect(close).to_have_attribute("aria-expanded", "true")
    close.click()
    expect(shoot).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_no_width_needs_horizontal_scrolling(page: Any, address: str, exported: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(page, address)
    choose(page, exported / "pictures" / "photograph_1.jpg")
    for width in (390, 320, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [card(page, model).bounding_box() for model in ("Pruned", "Dense")]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        # Side by side on a desktop, one below the other on a phone.
        assert (boxes[0]["y"] == boxes[1]["y"]) is (width == 1280)


def test_the_keyboard_reaches_everything(page: Any, address: str, exported: Path) -> None:
    open_page(page, address)
    choose(page, exported / "pictures" / "own_size_0.png")
    reached = []
    page.locator("body").press("Tab")
    for _ in range(6):
        focus = page.locator(":focus")
        reached.append(focus.evaluate("node => node.id || node.textContent"))
        page.keyboard.press("Tab")
    assert reached == [
        "file", "camera", "precision-pruned", "measure", "transformers.js (Apache-2.0)",
        "ONNX Runtime (MIT)",
    ]  # fmt: skip
    page.get_by_label("Choose a picture").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    label = page.locator("label[for=file]")
    assert label.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


def test_the_dark_scheme_is_followed(page: Any, address: str) -> None:
    colors = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(address)
        colors[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colors == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}


def test_the_headers_of_a_space_give_threads_and_the_same_scores(
    page: Any, site: Path, exported: Path, reference: dict[str, Any]
) -> None:
    picture = exported / "pictures" / "own_size_0.png"
    with served(site, SPACE_HEADERS) as url:
        open_page(page, url)
        assert page.evaluate("crossOriginIsolated")
        threads = min(4, -(-page.evaluate("navigator.hardwareConcurrency") // 2))
        choose(page, picture)
        for model, scores in reference[picture.name].items():
            shown = shown_scores(page, model)
            assert shown == pytest.approx({label: scores["fp32"][label] for label in shown}, abs=1e-4)
            expect(card(page, model)).to_contain_text("1 thread" if threads == 1 else f"{threads} threads")


def test_the_snippet_of_the_docs_runs(
    page: Any, site: Path, exported: Path, reference: dict[str, Any], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "browser.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```js\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    copy = linked_copy(site, tmp_path / "copy")
    (copy / "snippet.js").write_text(snippet, encoding="utf-8")
    shutil.copyfile(exported / "pictures" / "own_size_0.png", copy / "picture.png")
    own = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="snippet.js"></script>'
    (copy / "own.html").write_text(own, encoding="utf-8")
    with served(copy) as url:
        with page.expect_console_message(lambda message: message.type == "log", timeout=PATIENCE) as message:
            page.goto(f"{url}own.html")
        found = {row["label"]: row["score"] for row in message.value.args[0].json_value()}
    expected = reference["own_size_0.png"]["Pruned"]["fp32"]
    assert list(found) == best_of(expected)
    assert found == pytest.approx({label: expected[label] for label in found}, abs=1e-4)


def linked_copy(site: Path, copy: Path) -> Path:
    """A copy of a page whose files may be replaced."""
    shutil.copytree(site, copy, copy_function=lambda source, target: Path(target).symlink_to(source))
    return copy


def test_a_missing_file_and_an_unknown_type(page: Any, site: Path, exported: Path, tmp_path: Path) -> None:
    copy = linked_copy(site, tmp_path / "copy")
    config = json.loads((site / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "a_new_one"}), encoding="utf-8")
    (copy / "dense/onnx/model.onnx").unlink()
    with served(copy) as url:
        page.goto(url)
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("Dense could not be loaded", timeout=PATIENCE)
        expect(alert).to_contain_text("Check that all files of the export are on the server.")
        choose(page, exported / "pictures" / "own_size_1.png")
        assert len(shown_scores(page, "Pruned")) == 5
        assert not shown_scores(page, "Dense")


def test_without_transformers_js(page: Any, site: Path, tmp_path: Path) -> None:
    copy = linked_copy(site, tmp_path / "copy")
    (copy / "vendor/transformers.min.js").unlink()
    with served(copy) as url:
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("The page could not start (", timeout=PATIENCE)


def test_opened_as_a_file(browser: Any, site: Path) -> None:
    opened = browser.new_page()
    opened.goto((site / "index.html").as_uri())
    expect(opened.get_by_role("alert")).to_contain_text('Run "python -m http.server" in its folder')
    opened.close()


def test_pictures_are_resized_as_by_pillow(page: Any, address: str) -> None:
    page.goto(address)
    image = Image.effect_noise((37, 23), 80).convert("RGB")
    image = Image.merge(
        "RGB", [image.getchannel(0), ImageOps.invert(image).getchannel(1), image.getchannel(2).rotate(180)]
    )
    for resample in Image.Resampling:
        if resample == Image.Resampling.NEAREST:
            continue
        for size in ((24, 24), (5, 60), (37, 11)):
            resized = page.evaluate(
                """async ([data, width, height, newWidth, newHeight, resample]) => {
                    const { resizeAsPillow } = await import("./resize.js");
                    class RawImage {
                        _update(data, width, height) { return Object.assign(this, { data, width, height }); }
                    }
                    resizeAsPillow(RawImage);
                    const image = Object.assign(new RawImage(), { data, width, height, channels: 3 });
                    return Array.from((await image.resize(newWidth, newHeight, { resample })).data);
                }""",
                [list(image.tobytes()), *image.size, *size, int(resample)],
            )
            assert bytes(resized) == image.resize(size, resample).tobytes(), (resample, size)
