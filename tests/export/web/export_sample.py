"""Runs in a child process: exports the sample, dense and pruned, and records Python's scores of some pictures.

    python -m tests.export.web.export_sample FOLDER [MODEL]

FOLDER gets ``pruned/`` and ``dense/`` in the layout of transformers.js, ``pictures/`` and ``scores.json``. With the
folder of another model, it is exported as it is, and ``pictures/`` must be there.
"""

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnxruntime import InferenceSession
from onnxruntime.quantization import quantize_dynamic
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

import hf_vbp
from hf_vbp.sample import sample_images, sample_model_path


def export(model: Any, processor: Any, folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    shapes = {"pixel_values": {0: torch.export.Dim.AUTO}}
    size = model.config.image_size
    exported = OnnxExporter().export(
        model, {"pixel_values": torch.randn(2, 3, size, size)}, OnnxConfig(dynamic_shapes=shapes)
    )
    onnx_ir.save(exported.program, str(folder / "onnx/model.onnx"))
    quantize_dynamic(folder / "onnx/model.onnx", folder / "onnx/model_quantized.onnx")
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)


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


def scores(model: Any, processor: Any, picture: Path, quantized: InferenceSession) -> dict[str, dict[str, float]]:
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        logits = {"fp32": model(**inputs).logits[0]}
    logits["q8"] = torch.tensor(quantized.run(["logits"], {"pixel_values": inputs["pixel_values"].numpy()})[0][0])
    return {
        name: {model.config.id2label[index]: float(score) for index, score in enumerate(values.double().softmax(0))}
        for name, values in logits.items()
    }


def main(folder: Path) -> None:
    """Export the sample, dense and pruned."""
    processor = AutoImageProcessor.from_pretrained(sample_model_path())
    dense = AutoModelForImageClassification.from_pretrained(sample_model_path()).eval()
    images = hf_vbp.load_images("sample", model=dense, processor=processor)
    pruned = hf_vbp.prune(dense, images, hf_vbp.VBPConfig.preset("paper", ratio=0.5)).model
    write_pictures(folder / "pictures")
    export_all(folder, {"Pruned": pruned, "Dense": dense}, processor)


def export_all(folder: Path, models: Mapping[str, Any], processor: Any) -> None:
    reference: dict[str, Any] = {}
    for name, model in models.items():
        export(model, processor, folder / name.lower())
        quantized = InferenceSession(folder / name.lower() / "onnx/model_quantized.onnx")
        for picture in sorted((folder / "pictures").iterdir()):
            reference.setdefault(picture.name, {})[name] = scores(model, processor, picture, quantized)
    (folder / "scores.json").write_text(json.dumps(reference), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        loaded = AutoModelForImageClassification.from_pretrained(sys.argv[2]).eval()
        export_all(Path(sys.argv[1]), {"Model": loaded}, AutoImageProcessor.from_pretrained(sys.argv[2]))
