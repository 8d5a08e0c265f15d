"""The image processor of a checkpoint, with a fixed backend, and its description for the provenance."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_vbp._progress import one_line
from hf_vbp.errors import DataError

_NOT_RECORDED = frozenset(("_processor_class", "_valid_processor_keys", "image_processor_type", "backend"))


def load_processor(model: str | Path, **options: Any) -> Any:
    """Load the image processor of a checkpoint with the Pillow backend.

    Transformers selects torchvision's backend where torchvision is installed; the two resize differently, by up
    to 0.016 in normalized units, so accuracies compare only when the backend is the same everywhere.

    Args:
        model: A folder or a Hub id.
        **options: Passed on to ``AutoImageProcessor.from_pretrained`` (``revision``, ``token``...);
            ``trust_remote_code`` is False unless given.

    Raises:
        DataError: The checkpoint has no image processor.
    """
    from transformers import AutoImageProcessor

    # None would make transformers ask on the terminal.
    options.setdefault("trust_remote_code", False)
    try:
        return AutoImageProcessor.from_pretrained(model, backend="pil", **options)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The checkpoint {model} has no image processor that can be loaded ({one_line(error)}): save one with it "
            f"(preprocessor_config.json), or pass a processor."
        ) from error


def with_pil_backend(processor: Any) -> Any:
    """Return the processor with the Pillow backend; the same processor where it has it already or has no other."""
    import transformers

    name = type(processor).__name__
    if name.endswith("Pil") or not hasattr(processor, "preprocess"):
        return processor
    twin = getattr(transformers, name.removesuffix("Fast") + "Pil", None)
    if twin is None:
        return processor
    return twin.from_dict(processor.to_dict())


def is_gray(processor: Any) -> bool:
    """Whether a processor normalizes images of one channel."""
    mean = getattr(processor, "image_mean", None)
    return bool(getattr(processor, "do_normalize", False)) and isinstance(mean, list | tuple) and len(mean) == 1


class Transform:
    """Turns one RGB image into ``pixel_values`` ``(channels, height, width)`` float32.

    A processor that normalizes one channel gets the image in gray.

    Args:
        processor: An image processor of transformers, or any function from a Pillow image to a tensor.

    Raises:
        DataError: It is neither.
    """

    def __init__(self, processor: Any) -> None:
        if not callable(processor):
            raise DataError(
                f"A {type(processor).__name__} is not an image processor: pass one from load_processor(...), or a "
                f"function from a Pillow image to a tensor."
            )
        self.processor = with_pil_backend(processor)
        self.is_gray = is_gray(self.processor)
        self._call: Callable[[Any], Any] = (
            self._preprocess if hasattr(self.processor, "preprocess") else self.processor
        )

    def __call__(self, image: Any) -> torch.Tensor:
        """Return ``(channels, height, width)`` float32 for a Pillow image in RGB.

        Raises:
            DataError: The processor gives pixels of another shape.
        """
        pixels = torch.as_tensor(self._call(image.convert("L") if self.is_gray else image), dtype=torch.float32)
        if pixels.ndim != 3:
            raise DataError(
                f"The processor gives pixel values of the shape {tuple(pixels.shape)}; expected (channels, height, "
                f"width): return one image."
            )
        return pixels

    def _preprocess(self, image: Any) -> Any:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def describe(self) -> dict[str, Any]:
        """Return the class of the processor and a hash of its settings, as JSON."""
        if not hasattr(self.processor, "to_dict"):
            name = getattr(self.processor, "__qualname__", type(self.processor).__qualname__)
            return {"class": name, "backend": "function"}
        settings = json.loads(self.processor.to_json_string())
        settings = {key: value for key, value in settings.items() if key not in _NOT_RECORDED}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        name = type(self.processor).__name__
        shown = ("size", "crop_size", "resample", "image_mean", "image_std", "do_center_crop", "rescale_factor")
        return {
            "class": name.removesuffix("Pil"),
            "backend": "pil" if name.endswith("Pil") else "other",
            "fingerprint": f"sha256:{digest}",
            **{key: settings[key] for key in shown if settings.get(key) is not None},
        }
