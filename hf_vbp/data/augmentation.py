"""Augmentation of training images, drawn so that every run sees the same images.

The draw for an image depends on the seed, the epoch and the number of the image alone, not on the number of processes
and workers, nor on whether the run was interrupted and resumed.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from hf_vbp.data.processing import Transform
from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image

AUGMENTATIONS = ("paper", "plain", "none")
_SCALE = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
# "plain" shifts an image by up to this part of its side: 4 pixels of 32, as is usual for CIFAR-10.
_SHIFT = 8


class Augmentation:
    """Turns one RGB image into ``pixel_values`` ``(channels, height, width)`` float32, at random.

    - ``"paper"``: a random part of 8 to 100 % of the image in a random shape (3:4 to 4:3), resized, and flipped
      half of the time. The paper does not describe its augmentation; the known re-implementation does this.
    - ``"plain"``: the image processor, then a shift by up to an eighth of the side, and a flip half of the time.
    - ``"none"``: the image processor.

    Args:
        name: One of :data:`AUGMENTATIONS`.
        processor: The image processor of the model, which defines the size, the interpolation and the normalization.
        seed: Seed of the draws.
        backend: The library that resizes for ``"paper"``: ``"torchvision"``, ``"pil"``, or ``"auto"`` for torchvision
            where it is installed. Both use the same parts of the images.

    Raises:
        ConfigurationError: The name or backend is unknown, or the processor does not define its size.
    """

    def __init__(
        self,
        name: str,
        processor: Any,
        *,
        seed: int = 0,
        backend: Literal["auto", "torchvision", "pil"] = "auto",
    ) -> None:
        if name not in AUGMENTATIONS:
            raise ConfigurationError(f"augmentation is {name!r}; expected one of {', '.join(AUGMENTATIONS)}.")
        self.name = name
        self.backend = _backend(backend)
        self._seed = seed
        self._processed = Transform(processor)
        self._size = output_size(self._processed.processor) if name == "paper" else (0, 0)
        self._draws = np.random.default_rng(seed)

    @property
    def is_random(self) -> bool:
        """Whether an image looks different in another epoch."""
        return self.name != "none"

    @property
    def can_be_prepared(self) -> bool:
        """Whether :meth:`prepare` gives the same result in every epoch, so that it can be kept."""
        return self.name != "paper"

    def start(self, epoch: int, *position: int) -> None:
        """Set the next image: its epoch, and its number, or its worker and number."""
        self._draws = np.random.default_rng([self._seed, epoch, *position])

    def prepare(self, image: "Image") -> torch.Tensor:
        """Return ``(channels, height, width)`` float32 for a Pillow image in RGB, before :meth:`vary`."""
        if self.name != "paper":
            return self._processed(image)
        top, left, height, width = crop_box(self._draws, image.height, image.width)
        processor, (rows, columns) = self._processed.processor, self._size
        image = image.convert("L") if self._processed.is_gray else image
        resample = int(getattr(processor, "resample", None) or 3)
        if self.backend == "torchvision":
            pixels = _crop_torchvision(image, (top, left, height, width), (rows, columns), resample)
        else:
            box = (left, top, left + width, top + height)
            pixels = torch.from_numpy(np.asarray(image.resize((columns, rows), resample, box=box)).copy())
            pixels = pixels[None] if self._processed.is_gray else pixels.permute(2, 0, 1)
        return normalize(pixels, processor)

    def vary(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the pixels ``(channels, height, width)``, shifted and flipped where the augmentation does so."""
        if self.name == "plain":
            pixel_values = _shifted(pixel_values, self._draws)
        if self.is_random and self._draws.random() < 0.5:
            pixel_values = pixel_values.flip(-1)
        return pixel_values

    def describe(self) -> dict[str, Any]:
        """Return the name and settings as JSON."""
        described: dict[str, Any] = {"augmentation": self.name}
        if self.name == "paper":
            described |= {"crop_scale": list(_SCALE), "crop_ratio": list(_RATIO), "backend": self.backend}
        return described


def _backend(asked: str) -> str:
    installed = importlib.util.find_spec("torchvision") is not None
    if asked == "auto":
        return "torchvision" if installed else "pil"
    if asked not in ("torchvision", "pil"):
        raise ConfigurationError(f"The backend is {asked!r}; expected auto, torchvision or pil.")
    if asked == "torchvision" and not installed:
        raise ConfigurationError("torchvision is not installed; install it, or use the backend pil.")
    return asked


def output_size(processor: Any) -> tuple[int, int]:
    """Return the height and width of the images that a processor prepares.

    Raises:
        ConfigurationError: It does not define them.
    """
    names = ("crop_size", "size") if getattr(processor, "do_center_crop", False) else ("size",)
    for name in names:
        size = getattr(processor, name, None)
        values = dict(size) if isinstance(size, Mapping) else dict(vars(size)) if hasattr(size, "__dict__") else {}
        if values.get("height") and values.get("width"):
            return int(values["height"]), int(values["width"])
        if values.get("shortest_edge"):
            return int(values["shortest_edge"]), int(values["shortest_edge"])
    raise ConfigurationError(
        f"The image processor {type(processor).__name__} does not define the size of its images, which the "
        f"augmentation "
        '"paper" needs; use "plain".'
    )


def crop_box(draws: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the top, left, height and width of a part of an image, as torchvision's ``RandomResizedCrop`` does."""
    for _ in range(_TRIES):
        area = height * width * draws.uniform(*_SCALE)
        ratio = math.exp(draws.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = draws.integers(height - rows + 1), draws.integers(width - columns + 1)
            return int(top), int(left), rows, columns
    # A very long or very wide image: its middle, in the nearest allowed shape.
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    rows, columns = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _crop_torchvision(
    image: "Image", box: tuple[int, int, int, int], size: tuple[int, int], resample: int
) -> torch.Tensor:
    from torchvision.transforms.v2 import InterpolationMode, functional  # type: ignore[import-not-found,import-untyped]

    modes = {0: "NEAREST", 2: "BILINEAR", 3: "BICUBIC"}
    pixels = functional.pil_to_tensor(image)
    mode = InterpolationMode[modes.get(resample, "BICUBIC")]
    cropped: torch.Tensor = functional.resized_crop(pixels, *box, list(size), interpolation=mode, antialias=True)
    return cropped


def normalize(pixels: torch.Tensor, processor: Any) -> torch.Tensor:
    """Return pixels ``(channels, h, w)`` uint8 as a processor scales and normalizes them, float32."""
    values = pixels.to(torch.float32)
    if getattr(processor, "do_rescale", True):
        values = values * float(getattr(processor, "rescale_factor", None) or 1 / 255)
    if getattr(processor, "do_normalize", True):
        mean, std = (torch.tensor(getattr(processor, f"image_{name}")).reshape(-1, 1, 1) for name in ("mean", "std"))
        values = (values - mean) / std
    return values


def _shifted(pixels: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    rows, columns = max(height // _SHIFT, 1), max(width // _SHIFT, 1)
    # Mirrored at the border, which keeps the statistics of the image; the model has not seen black bars.
    padded = torch.nn.functional.pad(pixels[None], (columns, columns, rows, rows), mode="reflect")[0]
    top, left = int(draws.integers(2 * rows + 1)), int(draws.integers(2 * columns + 1))
    return padded[:, top : top + height, left : left + width]
