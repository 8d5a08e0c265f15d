"""Make the built-in sample: a small trained ViT and two sets of images of handwritten digits.

The digits are the 1,797 of the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), as scikit-learn ships them: 8x8 pixels, 17 levels.
Each is enlarged, rotated, colored and placed at random on a 24x24 canvas with a sloping background, pieces of
other digits, strokes and noise, so that the model has to find it first. No digit that appears in the
evaluation images, whole or as a piece, appears in the training or in the calibration images.

Run from the root of the repository; it takes some minutes on two cores and prints the final accuracy::

    python scripts/make_sample.py --output hf_vbp/sample
"""

import argparse
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Image
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw
from sklearn.datasets import load_digits
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CANVAS = 24
JPEG_QUALITY = 90
EVALUATION_DIGITS = 640
EPOCHS_PER_POOL = 3
FINAL_WIDTH = 64
SETTLING_STEPS = 300
CALIBRATION_IMAGES = 320
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """Some of the digits: ``images`` ``(n, 8, 8)`` from 0 to 1 and ``labels`` ``(n,)``."""

    images: NDArray[np.float64]
    labels: NDArray[np.int64]

    def select(self, indices: NDArray[np.int64]) -> "Digits":
        """Return the digits at ``indices``."""
        return Digits(self.images[indices], self.labels[indices])


def split_digits(seed: int) -> tuple[Digits, Digits]:
    """Return the digits for training and calibration, and those for evaluation, without overlap."""
    raw = load_digits()
    digits = Digits(raw.images / 16.0, raw.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(digits.labels))
    return digits.select(order[EVALUATION_DIGITS:]), digits.select(order[:EVALUATION_DIGITS])


def _colour(random: np.random.Generator, brightness: float) -> NDArray[np.float64]:
    return np.clip(brightness + random.uniform(-0.12, 0.12, 3), 0.0, 1.0)


def _background(random: np.random.Generator, brightness: float) -> NDArray[np.float64]:
    """Return a canvas ``(CANVAS, CANVAS, 3)`` that slopes from one color to another."""
    angle = random.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:CANVAS, 0:CANVAS] / (CANVAS - 1) - 0.5
    slope = np.clip(0.5 + (rows * math.sin(angle) + columns * math.cos(angle)) * 0.8, 0, 1)[..., None]
    return (1 - slope) * _colour(random, brightness) + slope * _colour(random, brightness)


def _stamp(
    canvas: NDArray[np.float64],
    ink: NDArray[np.float64],
    size: int,
    random: np.random.Generator,
    color: NDArray[np.float64],
    spill: int,
    reach: float = 1.0,
) -> None:
    """Paint ``ink`` ``(h, w)`` onto the canvas, about ``size`` pixels high, slightly rotated.

    With ``reach`` 1 its place is anywhere, with 0 in the middle; it may leave the canvas by ``spill``.
    """
    picture = PILImage.fromarray((ink * 255).astype(np.uint8), mode="L")
    width = max(2, round(size * ink.shape[1] / ink.shape[0] * random.uniform(0.85, 1.15)))
    picture = picture.resize((width, size), PILImage.Resampling.BICUBIC)
    picture = picture.rotate(random.uniform(-12, 12), PILImage.Resampling.BILINEAR, expand=True)
    mask = PILImage.new("L", (CANVAS, CANVAS))
    corner = []
    for extent in picture.size:
        middle = (CANVAS - extent) / 2
        corner.append(round(middle + reach * random.uniform(-1, 1) * max(middle + spill, 0)))
    mask.paste(picture, (corner[0], corner[1]))
    alpha = np.asarray(mask, dtype=np.float64)[..., None] / 255
    canvas[:] = canvas * (1 - alpha) + color * alpha


def _stroke(canvas: NDArray[np.float64], random: np.random.Generator, color: NDArray[np.float64]) -> None:
    mask = PILImage.new("L", (CANVAS, CANVAS))
    ends = [int(value) for value in random.integers(0, CANVAS, 4)]
    ImageDraw.Draw(mask).line(ends, fill=255, width=1)
    alpha = np.asarray(mask, dtype=np.float64)[..., None] / 255
    canvas[:] = canvas * (1 - alpha) + color * alpha


def compose(digits: Digits, index: int, random: np.random.Generator, difficulty: float = 1.0) -> Pixels:
    """Return one image ``(CANVAS, CANVAS, 3)`` of the digit at ``index``, with pieces of the others.

    A ``difficulty`` below 1 keeps the digit near the middle and most of the clutter away: training starts
    with such images, because a ViT of this size does not learn the full task from the start.
    """
    ground, contrast = random.uniform(0.15, 0.45), random.uniform(0.35, 0.6)
    canvas = _background(random, ground)

    def ink(strength: float) -> NDArray[np.float64]:
        return _colour(random, ground + strength)

    for _ in range(round(int(random.integers(1, 3)) * difficulty)):
        piece = digits.images[random.integers(len(digits.images))]
        piece = piece[:, :4] if random.random() < 0.5 else piece[:4]
        _stamp(canvas, piece, int(random.integers(4, 8)), random, ink(contrast * 0.6), spill=3)
    for _ in range(round(int(random.integers(0, 2)) * difficulty)):
        _stroke(canvas, random, ink(contrast * 0.6))
    size = int(random.integers(13, 18))
    _stamp(canvas, digits.images[index], size, random, ink(contrast), spill=1, reach=0.5 * difficulty)
    canvas += random.normal(0, random.uniform(0.01, 0.05), canvas.shape)
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def compose_many(digits: Digits, count: int, seed: int, difficulty: float = 1.0) -> tuple[Pixels, NDArray[np.int64]]:
    """Return ``count`` images ``(count, CANVAS, CANVAS, 3)`` and their labels, the digits taken in turn."""
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(digits.labels)) for _ in range(-(-count // len(digits.labels)))])[
        :count
    ]
    return np.stack([compose(digits, index, random, difficulty) for index in order]), digits.labels[order]


def as_jpeg(pixels: Pixels) -> bytes:
    """Return the image ``(CANVAS, CANVAS, 3)`` as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def from_jpeg(data: bytes) -> Pixels:
    """Return the pixels ``(CANVAS, CANVAS, 3)`` of a JPEG file."""
    with PILImage.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def write_images(path: Path, pixels: Pixels, labels: NDArray[np.int64]) -> Pixels:
    """Write a Parquet file that ``datasets`` reads as images with class names; return the decoded images."""
    files = [as_jpeg(image) for image in pixels]
    features = Features({"image": Image(), "label": ClassLabel(names=list(NAMES))})
    rows = [{"bytes": data, "path": f"{path.stem}-{index:04d}.jpg"} for index, data in enumerate(files)]
    table = pa.table({"image": rows, "label": labels}).cast(features.arrow_schema)
    pq.write_table(table, path, compression="zstd", compression_level=19)
    return np.stack([from_jpeg(data) for data in files])


def as_tensor(pixels: Pixels) -> torch.Tensor:
    """Return ``(n, 3, CANVAS, CANVAS)`` float32 from -1 to 1, as the image processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def new_model() -> ViTForImageClassification:
    """Return the untrained model: 5 blocks, 48 wide, 288 hidden neurons each, more than needed."""
    model = ViTForImageClassification(
        ViTConfig(
            image_size=CANVAS,
            patch_size=4,
            hidden_size=48,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=288,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.12,  # about 1/sqrt(hidden_size); the default suits widths near 768
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
        )
    )
    for name, parameter in model.named_parameters():
        # Training is too short for hidden neurons to get means as far from 0 as those of large trained ViTs;
        # with biases that start at 0, pruning would move no mean, and there would be nothing to compensate.
        if name.endswith("fc1.bias"):
            torch.nn.init.constant_(parameter, 1.0)
    return model


@torch.no_grad()
def without_idle_neurons(model: ViTForImageClassification, pixels: Pixels) -> ViTForImageClassification:
    """Return the model without the hidden neurons that weight decay has emptied, ``FINAL_WIDTH`` left per block.

    A model with idle neurons would make pruning look free. The neurons with the highest variance are kept, and the
    mean of the others is added to the bias.
    """
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].flatten(0, -2).double())
        )
        for name, module in model.named_modules()
        if name.endswith("mlp.fc2")
    ]
    model(pixel_values=as_tensor(pixels))
    for hook in hooks:
        hook.remove()
    state = dict(model.state_dict())
    for name, hidden in seen.items():
        kept = hidden.var(dim=0).topk(FINAL_WIDTH).indices.sort().values
        mean = hidden.mean(dim=0)
        mean[kept] = 0
        fc1 = name.removesuffix("2") + "1"
        state[f"{name}.bias"] = state[f"{name}.bias"] + (state[f"{name}.weight"].double() @ mean).float()
        state[f"{name}.weight"] = state[f"{name}.weight"][:, kept]
        for part in ("weight", "bias"):
            state[f"{fc1}.{part}"] = state[f"{fc1}.{part}"][kept]
    narrow = ViTForImageClassification(ViTConfig(**{**model.config.to_dict(), "intermediate_size": FINAL_WIDTH}))
    narrow.load_state_dict(state)
    return narrow


def training_batches(
    digits: Digits, steps: int, batch_size: int, pool: int, seed: int, ramp: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield ``steps`` batches out of a pool of images that is composed again every few epochs.

    The difficulty grows over the share ``ramp`` of the steps.
    """
    generator = torch.Generator().manual_seed(seed)
    done, epoch = 0, 0
    while done < steps:
        if epoch % EPOCHS_PER_POOL == 0:
            difficulty = float(np.clip(done / (ramp * steps) - 0.1, 0, 1)) if ramp else 1.0
            pixels, labels = compose_many(digits, pool, seed + 1 + epoch, difficulty)
            images, targets = as_tensor(pixels), torch.from_numpy(labels)
        for indices in torch.randperm(pool, generator=generator).split(batch_size):
            if done == steps:
                return
            done += 1
            yield images[indices], targets[indices]
        epoch += 1


def train(
    model: ViTForImageClassification,
    digits: Digits,
    steps: int,
    *,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    ramp: float = 0.0,
) -> None:
    """Train in place: AdamW with weight decay on matrices, a short warm-up, then a cosine to zero."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    model.train()
    started = time.monotonic()
    batches = training_batches(digits, steps, batch_size=128, pool=8_192, seed=seed, ramp=ramp)
    for step, (images, targets) in enumerate(batches, start=1):
        loss = functional.cross_entropy(model(pixel_values=images).logits, targets, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model: ViTForImageClassification, pixels: Pixels, labels: NDArray[np.int64]) -> float:
    """Return top-1 on the images, a fraction."""
    logits = torch.cat([model(pixel_values=part).logits for part in as_tensor(pixels).split(128)])
    return float((logits.argmax(dim=-1) == torch.from_numpy(labels)).double().mean())


def main() -> None:
    """Make the files, and print the accuracy of the model on the evaluation images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--steps", type=int, default=3500, help="training steps of 128 images")
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    seed: int = arguments.seed
    torch.manual_seed(seed)

    training, evaluation = split_digits(seed)
    pixels, labels = compose_many(training, CALIBRATION_IMAGES, seed=seed + 1_000_000)
    write_images(arguments.output / "calibration.parquet", pixels, labels)
    pixels, labels = compose_many(evaluation, EVALUATION_DIGITS, seed=seed + 2_000_000)
    held_out = write_images(arguments.output / "evaluation.parquet", pixels, labels)

    model = new_model()
    # Strong weight decay empties unneeded neurons; these are removed, and the rest is trained further.
    train(model, training, arguments.steps, seed=seed, learning_rate=2e-3, weight_decay=1.0, ramp=0.4)
    model = without_idle_neurons(model, compose_many(training, CALIBRATION_IMAGES, seed=seed + 3_000_000)[0])
    train(model, training, SETTLING_STEPS, seed=seed + 4_000_000, learning_rate=3e-4, weight_decay=0.1)
    model.save_pretrained(arguments.output)
    ViTImageProcessorPil(size={"height": CANVAS, "width": CANVAS}).save_pretrained(arguments.output)
    print(json.dumps({"evaluation_top1": accuracy(model, held_out, labels), "images": len(labels)}))


if __name__ == "__main__":
    main()
