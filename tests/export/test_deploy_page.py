"""docs/deploy.md: its Python runs as one program, and its server answers simultaneous requests in batches."""

import asyncio
import io
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("fastapi")

import hf_vbp

ROOT = Path(__file__).parents[2]


class Counting:
    """A session that keeps the sizes of its batches."""

    def __init__(self, session: Any) -> None:
        self.session, self.batches = session, list[int]()

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        self.batches.append(len(inputs["pixel_values"]))
        return self.session.run(names, inputs)


async def ask(app: Any, bodies: list[bytes]) -> list[httpx.Response]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client,
    ):
        return await asyncio.gather(*(client.post("/classify", content=body) for body in bodies))


def test_the_page_runs_and_its_server_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    # Small and without timing: the sample as a whole takes a minute on a busy machine.
    monkeypatch.setattr("hf_vbp.export.parity.Timing.seconds", 0.0)
    monkeypatch.setattr("hf_vbp.export.latency.WIDEST", math.inf)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M):
        exec(compile(block, "docs/deploy.md", "exec"), names)
    assert [row["file"] for row in names["rows"]] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    names["session"] = counting = Counting(names["session"])
    bodies = _made()
    *answered, refused = asyncio.run(ask(names["app"], [*bodies, b"no image"]))
    assert refused.status_code == 400
    assert sum(counting.batches) == len(bodies)
    assert len(counting.batches) < len(bodies)
    model = hf_vbp.from_pretrained("pruned-vit")
    for body, answer in zip(bodies, answered):
        (best, *_) = answer.json()
        image = Image.open(io.BytesIO(body)).convert("RGB")
        with torch.no_grad():
            logits = model(**names["processor"](image, return_tensors="pt")).logits
        # int8 is near: the best class of the file has a score of PyTorch that is near its best.
        scores = logits.softmax(-1)[0]
        assert scores[model.config.label2id[best["label"]]].item() > 0.5 * scores.max().item()
        assert 0 < best["score"] <= 1


def _made() -> list[bytes]:
    bodies = []
    for seed in range(5):
        file = io.BytesIO()
        Image.effect_noise((24, 24), 40 + seed).convert("RGB").save(file, "PNG")
        bodies.append(file.getvalue())
    return bodies
