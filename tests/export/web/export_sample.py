"""Runs in a child process: exports a model with a page, and records Python's scores of some pictures.

    python -m tests.export.web.export_sample FOLDER [MODEL]

FOLDER gets ``exported/``, with the page, ``pictures/`` and ``scores.json``. By default the sample is pruned and
exported together with the dense one; another model is exported as it is, and ``pictures/`` must be there.
"""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_vbp
from hf_vbp.sample import sample_images, sample_model_path

# Where the models of a page are, by the names that it shows.
PLACES = {"Pruned": "exported", "Model": "exported", "Dense": "exported/dense"}


def write_pictures(folder: Path) -> None:
    """PNG files of the model's own size, and JPEG files of other sizes, one of them turned by its EXIF data."""
    folder.mkdir()
    images = [row["image"] for row in sample_images("evaluation").select(range(10))]
    for index, image in enumerate(images[:4]):
        image.save(folder / f"own_size_{index}.png")
    for index, image in enumerate(images[4:]):
        turned = index == 0
        photograph = image.convert("RGB").resize((400, 300) if index % 2 else (211, 333), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if turned:
            photograph, exif[0x0112] = photograph.transpose(Image.Transpose.ROTATE_90), 6
        stream = io.BytesIO()
        photograph.save(stream, "JPEG", quality=92, exif=exif)
        (folder / f"photograph_{index}.jpg").write_bytes(stream.getvalue())


def scores(
    model: Any, processor: Any, picture: Path, quantized: InferenceSession | None
) -> dict[str, dict[str, float]]:
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        logits = {"fp32": model(**inputs).logits[0]}
    if quantized is not None:
        logits["q8"] = torch.tensor(quantized.run(["logits"], {"pixel_values": inputs["pixel_values"].numpy()})[0][0])
    return {
        name: {model.config.id2label[index]: float(score) for index, score in enumerate(values.double().softmax(0))}
        for name, values in logits.items()
    }


def write_scores(folder: Path, models: Mapping[str, Any], processor: Any) -> None:
    quantized = {name: folder / place / "onnx/model_quantized.onnx" for name, place in PLACES.items()}
    sessions = {name: InferenceSession(path) for name, path in quantized.items() if path.is_file()}
    reference = {
        picture.name: {name: scores(model, processor, picture, sessions.get(name)) for name, model in models.items()}
        for picture in sorted((folder / "pictures").iterdir())
    }
    (folder / "scores.json").write_text(json.dumps(reference), encoding="utf-8")


def export_pruned_sample(folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(sample_model_path())
    dense = AutoModelForImageClassification.from_pretrained(sample_model_path()).eval()
    images = hf_vbp.load_images("sample", model=dense, processor=processor)
    result = hf_vbp.prune(dense, images, hf_vbp.VBPConfig.preset("paper", ratio=0.5))
    hf_vbp.save_checkpoint(result, folder / "checkpoint", processor=processor, verify=False)
    hf_vbp.export_model(
        folder / "checkpoint",
        folder / "exported",
        quantize=["int8"],
        data="sample",
        base="sample",
        minimum_agreement=0.5,
        web=True,
        latency_seconds=0,
    )
    write_pictures(folder / "pictures")
    write_scores(folder, {"Pruned": result.model, "Dense": dense}, processor)


def export_as_it_is(folder: Path, source: str) -> None:
    hf_vbp.export_model(source, folder / "exported", web=True, latency_seconds=0)
    model = AutoModelForImageClassification.from_pretrained(source).eval()
    write_scores(folder, {"Model": model}, AutoImageProcessor.from_pretrained(source))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        export_pruned_sample(Path(sys.argv[1]))
    else:
        export_as_it_is(Path(sys.argv[1]), sys.argv[2])
