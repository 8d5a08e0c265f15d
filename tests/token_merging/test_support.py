"""Models whose tokens cannot be merged are refused with the reason, before anything is changed."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import hf_vbp
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.modeling.modeling_hf_vbp import USES_ALL_TOKENS
from hf_vbp.token_merging.support import can_merge
from tests.families.zoo import FAMILIES

from .models import CLASSES, RATIO, VIT, make

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViTModel": ("ViTConfig", VIT, "it returns them all"),
    "Dinov2Model": ("Dinov2Config", RATIO, "it returns them all"),
    "Dinov2Backbone": ("Dinov2Config", RATIO, "feature maps"),
    "ViTForMaskedImageModeling": ("ViTConfig", VIT, "each patch"),
    "SwinForImageClassification": (
        "SwinConfig",
        {"embed_dim": 16, "depths": [1], "num_heads": [2], "image_size": 32, "window_size": 4},
        "windows",
    ),
    "BeitForImageClassification": ("BeitConfig", VIT, "relative position"),
    "DINOv3ViTModel": ("DINOv3ViTConfig", VIT, "rotates"),
    "YolosForObjectDetection": ("YolosConfig", {**VIT, "image_size": [32, 32]}, "each position"),
    "DPTForDepthEstimation": ("DPTConfig", VIT, "relative position|each position"),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [8], "depths": [1], "num_stages": 1},
        "convol",
    ),
    "VivitForVideoClassification": ("VivitConfig", VIT, "not among those"),
}


def state(model: nn.Module) -> Any:
    names = ("_forward_hooks", "_forward_pre_hooks")
    return [dict(vars(module)[name]) for module in model.modules() for name in names]


@pytest.mark.parametrize("name", REFUSED)
def test_other_classes_are_refused_with_the_reason(name: str) -> None:
    config, options, reason = REFUSED[name]
    with torch.device("meta"):
        model = getattr(transformers, name)(getattr(transformers, config)(**options))
    before = state(model), model.config.to_dict()
    with pytest.raises(UnsupportedModelError, match=reason) as raised:
        hf_vbp.merge_tokens(model, 4)
    assert "ViTForImageClassification" in str(raised.value)
    assert (state(model), model.config.to_dict()) == before
    assert not can_merge(model)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name.partition("-")[0] not in CLASSES])
def test_no_other_family_of_the_zoo_is_taken(family: Any) -> None:
    if family.name.startswith("Timm"):
        pytest.importorskip("timm")
    model = family.build()
    with pytest.raises(UnsupportedModelError, match="cannot be merged: "):
        hf_vbp.merge_tokens(model, 4)


def test_every_listed_class_is_tested() -> None:
    assert set(CLASSES) == set(USES_ALL_TOKENS)
    assert all(can_merge(make(name)) for name in CLASSES)


def test_siglip_without_its_pooling_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="without a pooling head"):
        hf_vbp.merge_tokens(make("SiglipVisionModel", vision_use_head=False), 4)


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_attention_without_an_additive_mask_is_refused(attention: str) -> None:
    model = make("ViTForImageClassification")
    model.config._attn_implementation_internal = attention
    with pytest.raises(UnsupportedModelError, match=attention):
        hf_vbp.merge_tokens(model, 4)
    assert not hasattr(model.config, "vbp")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_and_wrapped_models_are_refused() -> None:
    model = make("ViTForImageClassification")
    with pytest.raises(UnsupportedModelError, match="_orig_mod"):
        hf_vbp.merge_tokens(torch.compile(model), 4)
    with pytest.raises(UnsupportedModelError, match="inside a wrapper"):
        hf_vbp.merge_tokens(nn.DataParallel(model), 4)
    with pytest.raises(UnsupportedModelError, match="got str"):
        hf_vbp.merge_tokens("vit", 4)
    model.compile()
    with pytest.raises(UnsupportedModelError, match="then compile"):
        hf_vbp.merge_tokens(model, 4)


def test_invalid_numbers_leave_the_model_as_it_was() -> None:
    model = make("ViTForImageClassification")
    hf_vbp.merge_tokens(model, [0, 2, 3])
    before = state(model), model.config.to_dict()
    with pytest.raises(ConfigurationError):
        hf_vbp.merge_tokens(model, [0, 2])
    assert (state(model), model.config.to_dict()) == before
