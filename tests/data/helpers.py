"""Small images in every supported form."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CLASSES = ("cat", "dog", "owl")
ID2LABEL = {0: "owl", 1: "Cat, Felis catus", 2: "dog"}
MODEL_ID = {"cat": 1, "dog": 2, "owl": 0}


def processor() -> Any:
    """An image processor that keeps pixel values as they are (0 to 1), 8x8."""
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0, 0, 0], image_std=[1, 1, 1])


def picture(number: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """An image of one color that encodes its number: red = number."""
    return Image.new("RGB", size, (number, 100, 200))


def png(number: int) -> bytes:
    """The same as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def numbers(loader: Any) -> list[int]:
    """The numbers of the pictures in the order in which a loader gives them."""
    return [int((image[0, 0, 0] * 255).round()) for batch in loader for image in batch["pixel_values"]]


def labels(loader: Any) -> list[int]:
    """The labels in the order in which a loader gives them."""
    return [int(label) for batch in loader for label in batch["labels"]]


def class_folder(root: Path, per_class: int = 4) -> Path:
    """Class folders: picture i of class c has the number ``c * per_class + i``."""
    for index, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for image in range(per_class):
            (root / name / f"{image}.png").write_bytes(png(index * per_class + image))
    return root


def flat_folder(root: Path, count: int = 5) -> Path:
    """Pictures without classes."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / f"{number:03d}.png").write_bytes(png(number))
    return root


def dataset(count: int = 12, **columns: Any) -> Any:
    """A ``datasets.Dataset`` with images and class names; picture i has the number i, class ``i % 3``."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(count)], "label": [i % 3 for i in range(count)]}
    return datasets.Dataset.from_dict(rows, features=features)


def shards(root: Path, sizes: Sequence[int] = (5, 4), *, extension: str = "cls") -> Path:
    """WebDataset tar shards of numbered pictures; the label of picture i is ``i % 3``, as a number or a name."""
    root.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(root / f"part-{shard:03d}.tar", "w") as tar:
            for _ in range(size):
                label = {"cls": str(number % 3), "json": json.dumps({"name": CLASSES[number % 3]})}[extension]
                for suffix, data in (("png", png(number)), (extension, label.encode())):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
                number += 1
    return root


def prepared(count: int = 5) -> list[dict[str, Any]]:
    """Dicts with ``pixel_values`` and ``labels``."""
    return [{"pixel_values": torch.full((3, 8, 8), number / 255), "labels": number % 3} for number in range(count)]


def noise(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of random pixels ``(16, 24, 3)``."""
    return np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
