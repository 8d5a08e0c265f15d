"""A model that was adapted to another size gives what transformers gives with interpolate_pos_encoding=True."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import hf_vbp
from hf_vbp.costs.counts import describe_cost
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.inputs.position_embeddings import size_of_processor
from tests.conftest import make_model


@pytest.mark.parametrize("size", [64, 16, (40, 24), (16, 64)], ids=str)
@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher"])
def test_the_outputs_are_those_of_transformers(kind: str, size: Any) -> None:
    dense = make_model(kind)
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    adapted = hf_vbp.interpolate_position_embeddings(copy.deepcopy(dense), size)
    with torch.no_grad():
        expected, found = dense(pixels, interpolate_pos_encoding=True), adapted(pixels)
    assert torch.equal(found[0], expected[0])


def test_the_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    model = hf_vbp.interpolate_position_embeddings(make_model().train(), (48, 64))
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model.eval()(pixels).logits)
    assert describe_cost(model)["macs"] > describe_cost(make_model())["macs"]
    assert model.vit.embeddings.position_embeddings.requires_grad


def test_the_same_size_changes_nothing() -> None:
    model = make_model()
    before = model.vit.embeddings.position_embeddings
    assert hf_vbp.interpolate_position_embeddings(model, 32) is model
    assert model.vit.embeddings.position_embeddings is before


def test_what_cannot_be_interpolated() -> None:
    for size in (30, 0, -8, (32, 36)):
        with pytest.raises(ConfigurationError, match=r"multiples of the patches of ViTForImage.* \(8 x 8\)"):
            hf_vbp.interpolate_position_embeddings(make_model(), size)
    swin = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1], num_heads=[1], window_size=4)
    with pytest.raises(UnsupportedModelError, match="SwinModel cannot interpolate"):
        hf_vbp.interpolate_position_embeddings(transformers.SwinModel(swin), 64)


def test_the_size_of_a_processor() -> None:
    processor = transformers.ViTImageProcessorPil
    assert size_of_processor(processor(size={"height": 48, "width": 64})) == (48, 64)
    deit = transformers.DeiTImageProcessorPil(size={"height": 72, "width": 72}, crop_size={"height": 64, "width": 48})
    assert size_of_processor(deit) == (64, 48)
    assert size_of_processor(None) is None
    assert size_of_processor(transformers.CLIPImageProcessorPil(do_center_crop=False)) is None
