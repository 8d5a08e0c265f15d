"""hf_vbp.from_pretrained refuses weights that would be random, and code in weight files."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    BertLMHeadModel,
    VisionEncoderDecoderModel,
)

import hf_vbp
from hf_vbp.errors import CheckpointError, ConfigurationError
from tests.checkpoint.helpers import UNIFORM, WIDTHS, assert_same_outputs, make_pruned, widths_of
from tests.conftest import make_model

MODELS: dict[str, Callable[[], Any]] = {
    "pruned": make_pruned,
    "uniform": lambda: make_pruned(widths=UNIFORM),
    "dense": make_model,
}


def remove(folder: Path, *endings: str) -> None:
    """Remove tensors from a checkpoint."""
    path = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if not name.endswith(endings)}
    save_file(tensors, path, metadata={"format": "pt"})


def make_composite() -> Any:
    decoder = BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
        is_decoder=True, add_cross_attention=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return VisionEncoderDecoderModel(encoder=make_pruned("vit-backbone"), decoder=BertLMHeadModel(decoder)).eval()


@pytest.mark.parametrize("name", MODELS)
def test_another_image_size_would_give_random_position_embeddings(name: str, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"1 weights \(.*position_embeddings\).*another shape than the config"):
        hf_vbp.from_pretrained(tmp_path, image_size=48, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_new_head_is_allowed(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    loaded = hf_vbp.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    assert loaded.classifier.out_features == 9
    assert widths_of(loaded) == widths_of(model)


@pytest.mark.parametrize("name", MODELS)
def test_missing_mlp_weights(name: str, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(tmp_path)
    remove(tmp_path, "layer.1.output.dense.bias")
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.fc2\.bias.*(missing|would be random)"):
            hf_vbp.from_pretrained(tmp_path, **options)


def test_a_missing_head_of_a_dense_model_is_left_to_transformers(tmp_path: Path) -> None:
    make_model("vit-backbone").save_pretrained(tmp_path)
    assert hf_vbp.from_pretrained(tmp_path, num_labels=3).classifier.out_features == 3


def test_a_backbone_has_no_head(tmp_path: Path) -> None:
    make_pruned("vit-backbone").save_pretrained(tmp_path)
    remove(tmp_path, "cls_token")
    with pytest.raises(CheckpointError, match=r"lacks 1 weights \(embeddings.cls_token\)"):
        hf_vbp.from_pretrained(tmp_path, auto_class=AutoModel, ignore_mismatched_sizes=True)


class TestComposite:
    def test_the_pruned_part_is_loaded(self, tmp_path: Path) -> None:
        model = make_composite()
        model.save_pretrained(tmp_path)
        loaded = hf_vbp.from_pretrained(tmp_path, auto_class=VisionEncoderDecoderModel)
        assert widths_of(loaded.encoder) == WIDTHS
        assert_same_outputs(loaded.encoder, model.encoder)

    def test_missing_mlp_weights(self, tmp_path: Path) -> None:
        make_composite().save_pretrained(tmp_path)
        remove(tmp_path, "encoder.layer.2.intermediate.dense.weight", "encoder.layers.2.mlp.fc1.weight")
        with pytest.raises(CheckpointError, match=r"MLP 2.*encoder\.layers\.2\.mlp\.fc1\.weight.*are missing"):
            VisionEncoderDecoderModel.from_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"MLP 2.*are missing"):
            hf_vbp.from_pretrained(tmp_path, auto_class=VisionEncoderDecoderModel)

    def test_other_missing_weights(self, tmp_path: Path) -> None:
        make_composite().save_pretrained(tmp_path)
        remove(tmp_path, "embeddings.cls_token")
        with pytest.raises(CheckpointError, match=r"lacks 1 weights \(encoder\.embeddings\.cls_token\)"):
            hf_vbp.from_pretrained(tmp_path, auto_class=VisionEncoderDecoderModel)

    def test_mismatched_weights(self, tmp_path: Path) -> None:
        model = make_composite()
        model.save_pretrained(tmp_path)
        config = model.config
        config.encoder.image_size = 48
        with pytest.raises(CheckpointError, match=r"1 weights \(encoder\.embeddings\.position_embeddings\)"):
            hf_vbp.from_pretrained(
                tmp_path, auto_class=VisionEncoderDecoderModel, config=config, ignore_mismatched_sizes=True
            )


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestPickledWeights:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        model = make_pruned()
        model.save_pretrained(tmp_path / "bin")
        tensors = load_file(tmp_path / "bin" / "model.safetensors")
        torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
        (tmp_path / "bin" / "model.safetensors").unlink()
        return tmp_path / "bin"

    def test_tensors_are_loaded(self, folder: Path) -> None:
        assert_same_outputs(hf_vbp.from_pretrained(folder), make_pruned())

    @pytest.mark.parametrize("load", [hf_vbp.from_pretrained, AutoModelForImageClassification.from_pretrained])
    def test_code_is_not_run(self, folder: Path, load: Any, tmp_path: Path) -> None:
        marker = tmp_path / "marker"
        content = {**torch.load(folder / "pytorch_model.bin", weights_only=True), "code": Code(marker)}
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises((CheckpointError, pickle.UnpicklingError), match=r"(?i)weights.only"):
            load(folder)
        assert not marker.exists()

    def test_code_cannot_be_asked_for(self, folder: Path) -> None:
        with pytest.raises(ConfigurationError, match="weights_only=False"):
            hf_vbp.from_pretrained(folder, weights_only=False)

    def test_damaged(self, folder: Path) -> None:
        shutil.copyfile(folder / "config.json", folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            hf_vbp.from_pretrained(folder)
