"""Reject models that do not take images, by their config."""

import inspect
from collections.abc import Callable
from typing import Any

from hf_vbp._progress import shown
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import config_tree

# What the config of a model for images, videos or spectrograms holds, itself or in one of its parts.
_SIGNS = ("image_size", "patch_size", "num_channels", "in_channels", "in_chans", "num_mel_bins", "timm_wrapper")
_PIXEL_LANGUAGE_MODELS = ("imagegpt",)


def check_takes_images(config: Any, source: str = "The model", build: Callable[[], Any] | None = None) -> None:
    """Refuse a model of text only, and a language model with a vision tower.

    Args:
        config: Its config.
        source: Its name for the message.
        build: Builds the model without weights, to name the vision tower of a language model.

    Raises:
        UnsupportedModelError: It takes no images, or generates text.
    """
    names = config.architectures if isinstance(config.architectures, list) else []
    if any("ForConditionalGeneration" in str(name) for name in names):
        model = None if build is None else build()
        raise UnsupportedModelError(language_model_message(source, model, load=True))
    if type(config).__module__.partition(".")[0] != "transformers":
        # A class of the user's own may name anything; data and the structural check show what the model takes.
        return
    for one in config_tree(config):
        if any(name in _declared(type(one)) for name in _SIGNS) or one.model_type in (
            *_PIXEL_LANGUAGE_MODELS,
            "timm_wrapper",
        ):
            return
    raise UnsupportedModelError(
        f"{source} is a {shown(config.model_type)} model, whose config describes no images. Expected a vision "
        "model: a classifier, backbone, tower, detector, segmenter or depth model."
    )


def _declared(config_class: type) -> set[str]:
    """Return the declared fields of a config: its instances keep any value that a file holds.

    Configs of transformers are dataclasses; those of other packages may declare them as parameters of ``__init__``.
    """
    return {*getattr(config_class, "__dataclass_fields__", ()), *inspect.signature(config_class).parameters}


def language_model_message(source: str, model: Any = None, *, load: bool = False) -> str:
    """Return the refusal of a language model, with the lines that prune its vision tower.

    Args:
        source: Its name for the message.
        model: The model, also without weights; None where it is not known, and the lines are left out.
        load: Whether the lines load it from ``source``.
    """
    tower = None if model is None else vision_tower(model)
    if tower is None:
        return (
            f"{source} generates text, which hf_vbp does not prune. A vision tower can be pruned as a model of its "
            "own and in place: pass its module to hf_vbp.prune, see docs/adapters.md."
        )
    name = type(model).__name__
    loading = f"from transformers import {name}, AutoImageProcessor; model = {name}.from_pretrained({source!r}); "
    processor = f"AutoImageProcessor.from_pretrained({source!r})" if load else "processor"
    packed = "grid_thw" in inspect.signature(type(model.get_submodule(tower)).forward).parameters
    batch = (
        '{"hidden_states": made["pixel_values"], "grid_thw": made["image_grid_thw"]}'
        if packed
        else '{"pixel_values": made["pixel_values"].flatten(0, -4)}'
    )
    return (
        f"{source} generates text from images. Prune its vision tower as a model of its own, with batches that its "
        "image processor made of a list of images; the whole model then has the smaller tower: "
        f"import hf_vbp; {loading if load else ''}"
        f'made = {processor}(images, return_tensors="pt"); '
        f"hf_vbp.prune(model.{tower}, [{batch}], hf_vbp.VBPConfig(ratio=0.3), inplace=True); "
        'model.save_pretrained("pruned")'
    )


def vision_tower(model: Any) -> str | None:
    """Return the qualified name of the vision tower of a model: the outermost module built from ``vision_config``.

    Args:
        model: A model of transformers, also without weights.
    """
    part = getattr(model.config, "vision_config", None)
    named = model.named_modules() if part is not None else ()
    return next((name for name, module in named if name and type(getattr(module, "config", None)) is type(part)), None)
