"""The JavaScript of the model card, run as it stands in the card by transformers.js in a headless Chromium."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.results.record import load_results
from tests.export.web.helpers import PATIENCE, served

REPOSITORY = "me/pruned-vit"
# What the snippet leaves to its surroundings: where the package and the Hub are; here both on the loopback interface.
PAGE = """<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"@huggingface/transformers": "./vendor/transformers.min.js"}}</script>
<script type="module">
  import { env } from "@huggingface/transformers";
  env.remoteHost = new URL("hub/", location.href).href;
  env.allowLocalModels = env.useBrowserCache = env.useWasmCache = false;
  env.backends.onnx.wasm.wasmPaths = {
    mjs: new URL("vendor/ort-wasm-simd-threaded.mjs", location.href).href,
    wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", location.href).href,
  };
</script>
<script type="module" src="snippet.js"></script>
"""


def snippet_of(exported: Path) -> str:
    """Return the JavaScript of the card of a checkpoint with its exported files."""
    rows = json.loads((exported / "exported/vbp_export.json").read_text(encoding="utf-8"))["exports"]
    results = {**load_results(exported / "checkpoint"), "exports": rows}
    card = str(render_card(make_facts(results, repo_id=REPOSITORY, exported=[row["file"] for row in rows])))
    (block,) = re.findall(r"^```js\n(.*?)^```$", card, re.S | re.M)
    return str(block)


@pytest.fixture
def shop(site: Path, exported: Path, tmp_path: Path) -> Path:
    """A folder with the page, the snippet, a picture, and the repository at its path on the Hub."""
    shutil.copytree(site / "vendor", tmp_path / "vendor")
    shutil.copytree(site, tmp_path / "hub" / REPOSITORY / "resolve/main")
    shutil.copy(exported / "pictures/own_size_0.png", tmp_path / "photo.jpg")
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    (tmp_path / "snippet.js").write_text(snippet_of(exported), encoding="utf-8")
    return tmp_path


def test_the_snippet_of_the_card_gives_the_scores_of_python(page: Any, shop: Path, reference: dict[str, Any]) -> None:
    with (
        served(shop) as address,
        page.expect_console_message(lambda message: message.type == "log", timeout=PATIENCE) as waiting,
    ):
        page.goto(address)
    shown = waiting.value.args[0].json_value()
    expected = reference["own_size_0.png"]["Pruned"]["q8"]
    assert shown[0]["label"] == max(expected, key=lambda label: expected[label])
    # Kernels of int8 round differently from one machine to the next.
    scores = {one["label"]: one["score"] for one in shown}
    assert scores == pytest.approx({label: expected[label] for label in scores}, abs=2e-2)
