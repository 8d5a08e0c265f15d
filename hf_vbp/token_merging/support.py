"""Which models can merge tokens, and why others cannot."""

import re
from typing import Any

from torch import nn

from hf_vbp.modeling.modeling_hf_vbp import LEADING_TOKENS, USES_ALL_TOKENS, find_tower

_WINDOWS = "its attention works in windows of the grid of patches, which merged tokens do not form"
_BIAS = "its attention adds a bias for the relative position of two patches, and a merged token has no single position"
_ROTARY = "it rotates queries and keys by the position of a patch, and a merged token has no single position"
_CONVOLUTION = "it is a convolutional or pooled network without a fixed sequence of tokens"
_EVERY_TOKEN = "its output needs every token"

# A regular expression for the class, one for the model type, and the reason; the first that fits.
_REASONS = (
    (r"^Timm", r"", "timm computes its attention itself, so its keys and its mask cannot be reached"),
    (r"", r"swin|hiera|focalnet|vitdet|sam|davit|maxvit", _WINDOWS),
    (r"", r"^(beit|data2vec-vision|dpt|levit)", _BIAS),
    (r"", r"^(dinov3_vit|pixtral|eva|vjepa2|aimv2)", _ROTARY),
    (r"", r"convnext|resnet|regnet|segformer|pvt|poolformer|mobile|efficient|cvt|swiftformer|bit$", _CONVOLUTION),
    (r"For(MaskedImageModeling|PreTraining)$", r"", f"{_EVERY_TOKEN}: it predicts each patch"),
    (
        r"Detection|Segmentation|Depth|Keypoint|Pose|Matching",
        r"",
        f"{_EVERY_TOKEN}: it has one result for each position",
    ),
    (r"Backbone$", r"", f"{_EVERY_TOKEN}: it returns feature maps"),
)


def can_merge(model: nn.Module) -> bool:
    """Return whether :func:`hf_vbp.merge_tokens` takes a model."""
    return why_not_mergeable(model) is None


def why_not_mergeable(model: Any) -> str | None:
    """Return why the tokens of a model cannot be merged, with what to do instead, or None where they can.

    Args:
        model: Any model; it is only read.
    """
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(config, "model_type") or name == "OptimizedModule":
        return _not_plain(model, name)
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        return f"{name} is compiled, and compiled code does not see new hooks. Merge tokens first, then compile."
    if name not in USES_ALL_TOKENS:
        return f"The tokens of {name} cannot be merged: {_reason(name, config.model_type)}. {_classes()}"
    tower = find_tower(model)
    if tower is None:
        return f"The tokens of {name} cannot be merged: its blocks have another structure than expected. {_classes()}"
    if not getattr(tower.config, "vision_use_head", True) and not name.endswith("ForImageClassification"):
        return f"The tokens of {name} without a pooling head cannot be merged: {_EVERY_TOKEN}. {_classes()}"
    used = tower.config._attn_implementation
    if used not in ("sdpa", "eager"):
        return (
            f"The attention implementation of {name} is {used!r}, which takes no additive mask of the attention; "
            "expected 'sdpa' or 'eager'. Use model.set_attn_implementation('sdpa')."
        )
    return None


def _not_plain(model: Any, name: str) -> str:
    inner = ""
    if name == "OptimizedModule":
        inner = " Merge the tokens of the original module (its attribute _orig_mod), then compile it."
    elif isinstance(model, nn.Module):
        inner = " Pass the model inside a wrapper (accelerator.unwrap_model(model), get_base_model())."
    return f"Expected a transformers model, got {name}.{inner}"


def _reason(name: str, model_type: str) -> str:
    for pattern, kind, reason in _REASONS:
        if re.search(pattern, name) and re.search(kind, model_type):
            return reason
    if model_type in LEADING_TOKENS:
        return f"{_EVERY_TOKEN}: it returns them all"
    return f"the model type {model_type!r} is not among those that merging was verified for"


def _classes() -> str:
    return f"These classes can: {', '.join(USES_ALL_TOKENS)}."
