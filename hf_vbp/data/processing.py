"""The image processor of a checkpoint, with a fixed backend, and its description for the provenance."""

import hashlib
import inspect
import json
from collections.abc import Mapping
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


def _needs_boxes(processor: Any) -> bool:
    boxes = inspect.signature(getattr(processor, "preprocess", len)).parameters.get("boxes")
    return boxes is not None and boxes.default is boxes.empty


def _makes_other_inputs(made: Mapping[str, Any]) -> bool:
    """Whether a batch of one image has packed patches ``(1, patches, values)``, or no pixels at all."""
    pixels = made.get("pixel_values")
    return getattr(pixels, "ndim", 0) == 3 if pixels is not None else "input_ids" in made


class Transform:
    """Turns one RGB image into ``pixel_values`` ``(channels, height, width)`` float32, or the other inputs of a model.

    A processor that normalizes one channel gets the image in gray. One that crops to boxes (ViTPose) gets one box, the
    whole image.

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
        self._needs_boxes = _needs_boxes(self.processor)

    def __call__(self, image: Any) -> torch.Tensor:
        """Return ``(channels, height, width)`` float32 for a Pillow image in RGB.

        Raises:
            DataError: The processor gives pixels of another shape.
        """
        return self._pixels(self._processed(image))

    def inputs(self, image: Any) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for a Pillow image in RGB, without the axis of the batch.

        ``pixel_values`` as from a call, without masks; or all tensors of a processor that makes packed patches with
        their masks and shapes (SigLIP2), or numbers of colors (ImageGPT).

        Raises:
            DataError: The processor gives pixels of another shape.
        """
        made = self._processed(image)
        if not isinstance(made, Mapping) or not _makes_other_inputs(made):
            return {"pixel_values": self._pixels(made)}
        inputs = {key: value[0] for key, value in made.items() if isinstance(value, torch.Tensor) and value.ndim}
        return {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}

    def _pixels(self, made: Any) -> torch.Tensor:
        """Return the pixels in the output of the processor."""
        if isinstance(made, Mapping):
            if "pixel_values" not in made:
                raise DataError(
                    f"The processor gives {', '.join(made)}, no pixel_values, which are needed here: use a model that "
                    "takes images."
                )
            made = made["pixel_values"][0]
        pixels = torch.as_tensor(made, dtype=torch.float32)
        if pixels.ndim != 3:
            raise DataError(
                f"The processor gives pixel values of the shape {tuple(pixels.shape)}; expected (channels, height, "
                f"width): return one image."
            )
        return pixels

    def _processed(self, image: Any) -> Any:
        """Return what the processor makes of one image: a batch, or from a function the pixels."""
        image = image.convert("L") if self.is_gray else image
        if not hasattr(self.processor, "preprocess"):
            return self.processor(image)
        boxes = {"boxes": [[[0.0, 0.0, float(image.width), float(image.height)]]]} if self._needs_boxes else {}
        return self.processor(images=image, return_tensors="pt", **boxes)

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
