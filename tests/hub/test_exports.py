"""Exported files on the Hub: pushed on request, listed in the card, checked by the audit."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.card.front_matter import split_card
from hf_vbp.card.render import make_facts, render_card
from tests.hub.helpers import Client, make_results
from tests.loopback_hub import LoopbackHub, User

NAME = "alice/pruned-vit"
FILE = "onnx/model.onnx"


def row(content: bytes, file: str = FILE, **changes: Any) -> dict[str, Any]:
    """A row of the results; the figures are made up, their form is real."""
    return {
        "file": file,
        "format": "onnx",
        "precision": "fp32",
        "files": {file: hashlib.sha256(content).hexdigest()},
        "bytes": len(content),
        "runtime": "onnxruntime 1.32.0",
        "inputs": {"pixel_values": ["batch_size", 3, 32, 32]},
        "outputs": ["logits"],
        "data": "photos",
        "images": 32,
        "batches": [1, 3],
        "max_abs_difference": 2e-6,
        "agreement": 1.0,
        "top1": 0.75,
        "latency": [
            {
                "threads": 1, "batch": 1, "device_name": "A processor", "repetitions": 20, "median_ms": 16.4,
                "dense_ms": 22.0, "speedup": 1.34, "speedup_interval": [1.3, 1.4],
            }
        ],
        **changes,
    }  # fmt: skip


@pytest.fixture
def exported(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose results list an exported file."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "pruned-vit"))
    content = b"a graph" * 100
    (folder / "onnx").mkdir()
    (folder / FILE).write_bytes(content)
    results = json.loads((folder / "vbp_results.json").read_text())
    (folder / "vbp_results.json").write_text(json.dumps({**results, "exports": [row(content)]}))
    return folder


def test_files_are_pushed_on_request_only(client: Client, hub: LoopbackHub, exported: Path) -> None:
    assert client.push(exported, NAME)["status"] == "pushed"
    published = hub.repositories[NAME].files()
    assert FILE not in published
    assert b"## Files for other runtimes" not in published["README.md"]
    assert client.push(exported, NAME, exports=True, overwrite=True)["status"] == "pushed"
    published = hub.repositories[NAME].files()
    assert published[FILE] == (exported / FILE).read_bytes()
    card = published["README.md"].decode()
    assert "| onnx/model.onnx | fp32 |" in card
    assert {"onnx", "transformers.js", "custom_code"} <= set(split_card(card)[0]["tags"])
    assert split_card(card)[0]["library_name"] == "transformers"
    report = client.ask("audit", repo_id=NAME, options={"check_load": False})
    assert any("exported files" in line and "1 files" in line for line in report["lines"])
    assert report["passed"]
    # A later model without exported files does not leave those of this one there.
    assert client.push(exported, NAME, overwrite=True)["deleted"] == [FILE]


def test_changed_and_missing_files_are_refused(client: Client, hub: LoopbackHub, exported: Path) -> None:
    (exported / FILE).write_bytes(b"another graph")
    refused = client.push(exported, NAME, exports=True)
    assert refused["error"] == "CheckpointError"
    assert "was changed after it was compared" in refused["message"]
    (exported / FILE).unlink()
    assert "is missing" in client.push(exported, NAME, exports=True)["message"]
    (exported / FILE).symlink_to("/etc/hostname")
    assert "outside of the folder" in client.push(exported, NAME, exports=True)["message"]
    assert NAME not in hub.repositories


def test_a_checkpoint_without_exported_files(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    assert "hf-vbp export" in client.push(checkpoint, NAME, exports=True)["message"]


def test_the_card_lists_the_files_of_the_repository() -> None:
    content = b"graph"
    quantized = row(content, "onnx/model_quantized.onnx", precision="int8")
    results = make_results() | {"exports": [row(content), quantized]}
    facts = make_facts(results, repo_id="me/x", exported={FILE, quantized["file"]})
    card = render_card(facts)
    line = "| onnx/model_quantized.onnx | int8 | 0.00 MB | 75.0 % | 100.0 % | 2e-06 | 16.40 ms (1.34x) |"
    assert line in card.replace("\\_", "_")
    assert 'dtype: "q8"' in card
    assert "32 images of photos. Latency is the median of one image on A processor" in card
    assert "model_quantized" not in render_card(make_facts(results, repo_id="me/x", exported={FILE}))
    assert "Files for other runtimes" not in render_card(make_facts(results, repo_id="me/x"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_snippets_load_weights_of_more_than_2_gb(precision: str) -> None:
    content = b"graph"
    file = {"fp32": FILE, "int8": "onnx/model_quantized.onnx"}[precision]
    large = row(content, file, precision=precision)
    plain = render_card(make_facts(make_results() | {"exports": [large]}, repo_id="me/x", exported={file}))
    assert "_data" not in plain
    assert "use_external_data_format" not in plain
    large["files"][f"{file}_data"] = hashlib.sha256(b"weights").hexdigest()
    card = render_card(make_facts(make_results() | {"exports": [large]}, repo_id="me/x", exported={file}))
    (block,) = [one for one in re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M) if "onnxruntime" in one]
    lines = block.splitlines()
    place = lines.index(f'hf_hub_download("me/x", "{file}_data")  # the weights of the graph')
    assert lines[place + 1].startswith("session = onnxruntime.InferenceSession(")
    compile(block, "card", "exec")
    dtype = {"fp32": "fp32", "int8": "q8"}[precision]
    assert f'"me/x", {{ dtype: "{dtype}", use_external_data_format: true }});' in card


def test_the_snippet_of_the_card_runs(xet_hub: LoopbackHub, alice: User, client: Client, tmp_path: Path) -> None:
    """With ONNX Runtime, in a process that imports neither hf_vbp nor PyTorch."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from PIL import Image

    import hf_vbp
    from hf_vbp.data.processing import load_processor
    from tests.cli.helpers import save_images, save_tiny

    dense = save_tiny(tmp_path / "dense", num_hidden_layers=1)
    images = save_images(tmp_path / "images")
    model = hf_vbp.from_pretrained(dense)
    data = hf_vbp.load_images(images, model=model, labels="none")
    result = hf_vbp.prune(model, data, hf_vbp.VBPConfig(ratio=0.4))
    folder = tmp_path / "pruned"
    hf_vbp.save_checkpoint(result, folder, processor=load_processor(dense))
    (written,) = hf_vbp.export_model(folder, latency_seconds=0)
    assert written["file"] == FILE
    assert client.push(folder, NAME, exports=True, base_model="alice/base-vit")["status"] == "pushed"
    card = xet_hub.repositories[NAME].files()["README.md"].decode()
    (block,) = [one for one in re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M) if "onnxruntime" in one]
    Image.open(images / "ant" / "0.png").save(tmp_path / "photo.jpg")
    code = f"import sys\nsys.modules['hf_vbp'] = sys.modules['torch'] = None\n{block}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=xet_hub.environment(tmp_path / "home", alice.token),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    pixels = load_processor(folder)(Image.open(tmp_path / "photo.jpg"), return_tensors="pt")
    expected = result.model.config.id2label[int(result.model(**pixels).logits.argmax())]
    assert done.stdout.strip() == expected
