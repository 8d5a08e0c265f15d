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
# Parts of the names of classes that generate text.
_GENERATORS = ("ForConditionalGeneration", "VisionEncoderDecoder", "VisionText2Text", "BlipForQuestionAnswering")


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
    if any(generates_text(str(name), config) for name in names):
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
        f"{source} has the model type {shown(config.model_type)}, whose config describes no images. Expected a vision "
        "model: a classifier, backbone, tower, detector, segmenter or depth model."
    )


def generates_text(class_name: str, config: Any) -> bool:
    """Return whether a class generates text, also from images; ImageGPT generates pixels.

    Args:
        class_name: The name of the class.
        config: The config of the model.
    """
    if any(part in class_name for part in _GENERATORS):
        return True
    # The text decoder of GIT has the names of an encoder, so not even its base model is pruned as a whole.
    causal = "ForCausalLM" in class_name and getattr(config, "vision_config", None) is not None
    return causal or config.model_type == "git"


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
        else '{"pixel_values": pixels[pixels.flatten(1).any(1)]}'
    )
    # Processors pad the tiles of an image with zeros to the most that an image of the batch has.
    tiles = "" if packed else 'pixels = made["pixel_values"].flatten(0, -4); '
    return (
        f"{source} generates text from images. Prune its vision tower as a model of its own, with batches that its "
        "image processor made of a list of images; the whole model then has the smaller tower: "
        f"import hf_vbp; {loading if load else ''}"
        f'made = {processor}(images, return_tensors="pt"); {tiles}'
        f"hf_vbp.prune(model.{tower}, [{batch}], hf_vbp.VBPConfig(ratio=0.3), inplace=True); "
        'model.save_pretrained("pruned")'
    )


def vision_tower(model: Any) -> str | None:
    """Return the qualified name of the vision tower of a model: the outermost module built from ``vision_config``.

    In a ``VisionEncoderDecoderModel`` (Donut, TrOCR), the module built from ``encoder``.

    Args:
        model: A model of transformers, also without weights.
    """
    config = model.config
    part = getattr(config, "encoder" if config.model_type == "vision-encoder-decoder" else "vision_config", None)
    named = model.named_modules() if part is not None else ()
    return next((name for name, module in named if name and type(getattr(module, "config", None)) is type(part)), None)
