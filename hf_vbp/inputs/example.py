"""Batches made from the configs of a model, for steps that have no batch of the user."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp._progress import one_line
from hf_vbp.errors import HfVbpError, UnsupportedModelError
from hf_vbp.inputs.batch import forward_names
from hf_vbp.modeling.modeling_hf_vbp import config_tree

# The size for which most models that take any size are trained; their configs name none.
_USUAL_SIZE = 224
# Of one image or video: 4096 x 4096 in color.
_MOST_VALUES = 3 * 4096**2


def example_batch(
    model: nn.Module, images: int = 1, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Return inputs of a model, of the shapes that its configs describe, with random values.

    Args:
        model: A vision model of transformers, also for videos, spectrograms, and images with texts.
        images: Number of images.
        device: Device of the tensors; by default that of the model.
        dtype: Floating dtype of the tensors; by default that of the model.

    Returns:
        Keyword arguments of the forward pass. The same values in every call.

    Raises:
        UnsupportedModelError: The configs describe no input, or the model needs inputs that are not known here.
    """
    if getattr(model, "config", None) is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no config, so no input can be made for it.")
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    names = forward_names(model)
    try:
        batch = next((made for made in _attempts(model, names, images) if made), None)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, HfVbpError):
            raise
        raise UnsupportedModelError(
            f"The config of {type(model).__name__} describes no input ({one_line(error)}). Restore the original "
            "config.json."
        ) from error
    if batch is None:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no input can be made from its config; its forward pass takes "
            f"{', '.join(sorted(names))}. Pass data, or a batch that its processor made to every step: "
            "prepared = hf_vbp.adapters.prepare(model, batch)."
        )
    device, dtype = device or parameter.device, dtype or parameter.dtype
    return {key: value.to(device, dtype if value.is_floating_point() else value.dtype) for key, value in batch.items()}


def _attempts(model: nn.Module, names: set[str], images: int) -> Iterator[dict[str, Tensor]]:
    config: Any = model.config
    if "spatial_shapes" in names:
        yield _patches_with_masks(config, names, images)
    if {"grid_thw", "hidden_states"} <= names:
        yield _packed_patches(config, images)
    if "input_values" in names:
        yield {"input_values": _random(images, _get(config, "max_length", 1024), _get(config, "num_mel_bins", 128))}
    pixels = next((name for name in ("pixel_values_videos", "pixel_values", "inputs") if name in names), None)
    if pixels:
        yield {pixels: _pixels(config, images), **_texts(config, names, images)}
    if "input_ids" in names:
        length, words = _get(config, "n_positions", 16), _get(config, "vocab_size", 16)
        yield {"input_ids": _integers(words - 1, images, length)}


def _pixels(config: Any, images: int) -> Tensor:
    channels, height, width = image_shape(config)
    frames = _get(config, "num_frames", _get(config, "frames_per_clip", None)) if _is_video(config) else None
    return _random(images, *(() if frames is None else (frames,)), channels, height, width)


def _is_video(config: Any) -> bool:
    # Perceiver has a number of frames too, and takes images.
    return _get(config, "tubelet_size", None) is not None or "timesformer" in config.model_type


def image_shape(config: Any, usual: int | None = _USUAL_SIZE) -> tuple[int, int, int]:
    """Return ``(channels, height, width)`` of the images that the configs of a model describe.

    Args:
        config: The config of a model; the size may be in one of the configs inside it.
        usual: The size of models whose configs name none, since they take any; None refuses them.

    Raises:
        UnsupportedModelError: The configs name no size, and ``usual`` is None.
    """
    size = _timm_size(config) or _get(config, "image_size", _get(config, "img_size", usual))
    if size is None:
        raise UnsupportedModelError("The config has no image_size, so no image can be made; set config.image_size.")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = _get(config, "num_channels", _get(config, "in_channels", _get(config, "in_chans", 3)))
    return int(channels), int(height), int(width)


def _timm_size(config: Any) -> Any:
    """Return the size of the images of a model of timm, which its config keeps among the options of timm."""
    arguments, trained = (vars(config).get(name) or {} for name in ("model_args", "pretrained_cfg"))
    return arguments.get("img_size") or (trained.get("input_size") or [None])[1:] or None


def _patches_with_masks(config: Any, names: set[str], images: int) -> dict[str, Tensor]:
    patch, patches = _get(config, "patch_size", 16), _get(config, "num_patches", 256)
    side = int(patches**0.5)
    mask = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
    return {
        "pixel_values": _random(images, patches, _get(config, "num_channels", 3) * patch**2),
        mask: (torch.arange(patches) < side**2).long().expand(images, -1),
        "spatial_shapes": torch.full((images, 2), side),
        **(_texts(config, names, images) if mask != "attention_mask" else {}),
    }


def _packed_patches(config: Any, images: int) -> dict[str, Tensor]:
    side = 2 * _get(config, "spatial_merge_size", 2)
    values = (
        _get(config, "in_channels", 3) * _get(config, "temporal_patch_size", 2) * _get(config, "patch_size", 14) ** 2
    )
    grid = torch.tensor([[1, side, side]]).expand(images, -1)
    return {"hidden_states": _random(images, side**2, values).flatten(0, 1), "grid_thw": grid}


def _texts(config: Any, names: set[str], images: int) -> dict[str, Tensor]:
    text = getattr(config, "text_config", None)
    if text is None or "input_ids" not in names:
        return {}
    length = min(_get(text, "max_position_embeddings", 16), 16)
    ids = torch.ones(images, length, dtype=torch.long)
    ids[:, -1] = min(getattr(text, "eos_token_id", None) or 2, text.vocab_size - 1)
    return {"input_ids": ids}


def _get(config: Any, name: str, default: Any) -> Any:
    """Return a value of a config or of the first config inside it that has one; towers of images come first."""
    configs = sorted(config_tree(config), key=lambda one: "text" in str(one.model_type))
    for one in configs:
        value = vars(one).get(name)
        if value is not None:
            return value
    return default


def _random(images: int, *shape: int) -> Tensor:
    if math.prod(shape) > _MOST_VALUES:
        raise UnsupportedModelError(
            f"The config describes an input of shape {tuple(shape)}, which is larger than any that hf_vbp makes "
            f"({_MOST_VALUES:,} values). Correct the config, or pass data."
        )
    return torch.randn((images, *shape), generator=torch.Generator().manual_seed(0))


def _integers(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))
