"""Padding to one width, for plain transformers."""

import copy

import pytest
import torch
from transformers import SwinConfig, SwinForImageClassification

from hf_vbp.checkpoint.padding import pad_to_uniform_width
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from tests.checkpoint.helpers import WIDTHS, make_pruned, outputs, widths_of


@pytest.mark.parametrize("kind", ["vit", "deit", "deit-teacher", "vit-backbone"])
@pytest.mark.parametrize("width", [None, 40])
def test_same_outputs_with_one_width(kind: str, width: int | None) -> None:
    model = make_pruned(kind)
    stock = pad_to_uniform_width(model, width=width)
    assert widths_of(stock) == [width or 37] * 3
    assert stock.config.intermediate_size == (width or 37)
    assert not hasattr(stock.config, "vbp")
    assert widths_of(model) == model.config.vbp["widths"] == WIDTHS
    for name, value in outputs(model).items():
        assert torch.allclose(outputs(stock)[name], value, atol=1e-5), name


def test_nothing_left() -> None:
    model = make_pruned(widths=[0, 0, 0])
    assert widths_of(pad_to_uniform_width(model)) == [1, 1, 1]


def test_too_narrow() -> None:
    with pytest.raises(ConfigurationError, match="at least 37"):
        pad_to_uniform_width(make_pruned(), width=36)


def test_family_that_cannot() -> None:
    model = SwinForImageClassification(
        SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], image_size=32, window_size=4)
    )
    before = copy.deepcopy(model.config.to_dict())
    with pytest.raises(UnsupportedModelError, match=r"no config\.intermediate_size"):
        pad_to_uniform_width(model)
    assert model.config.to_dict() == before
