"""Reject models that do not take images, by their config."""

import inspect
from typing import Any

from hf_vbp._progress import shown
from hf_vbp.errors import UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import config_tree

# What the config of a model for images, videos or spectrograms holds, itself or in one of its parts.
_SIGNS = ("image_size", "patch_size", "num_channels", "in_channels", "in_chans", "num_mel_bins", "timm_wrapper")
_PIXEL_LANGUAGE_MODELS = ("imagegpt",)


def check_takes_images(config: Any, source: str = "The model") -> None:
    """Refuse a model of text only, and a language model with a vision tower.

    Args:
        config: Its config.
        source: Its name for the message.

    Raises:
        UnsupportedModelError: It takes no images, or generates text.
    """
    names = config.architectures if isinstance(config.architectures, list) else []
    if any("ForConditionalGeneration" in str(name) for name in names):
        raise UnsupportedModelError(language_model_message(source))
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


def language_model_message(source: str) -> str:
    """Return the refusal of a language model with a vision tower, with the lines that prune the tower."""
    return (
        f"{source} generates text from images. Prune its vision tower as a model of its own, with batches of images "
        "that its image processor made; the whole model then has the smaller tower: "
        "hf_vbp.prune(model.model.vision_tower, batches, config, inplace=True); model.save_pretrained(folder)"
    )
