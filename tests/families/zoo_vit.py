"""Plain vision transformers: one width, one resolution."""

from typing import Any

import torch

from .batches import images, joined, numbers, values
from .family import Family, mlps, of
from .sizes import DENSE, DENSE_12, GATED, LABELS, VIT, VIT_WITH_RATIO


def classifier(name: str, model: str, pattern: str, *dense: str, **options: Any) -> Family:
    """A classifier of five classes; the config has the name of the class before ``For``."""
    class_name = name.partition("-")[0]
    settings = {**VIT, **LABELS, **options}
    return Family(
        name, of(class_name, f"{model}Config", **settings), images(), "logits", "logits", mlps(pattern, 2, *dense)
    )


def backbone(name: str, model: str, pattern: str, *dense: str, **options: Any) -> Family:
    """The bare model; its output is the normalised class token."""
    class_name = name.partition("-")[0]
    return Family(
        name,
        of(class_name, f"{model}Config", **{**VIT, **options}),
        images(),
        "tokens",
        "last_hidden_state",
        mlps(pattern, 2, *dense),
    )


VIT_FAMILIES = [
    classifier("ViTForImageClassification", "ViT", "vit.layers.{}.mlp"),
    Family(
        "ViTForImageClassification-multi_label",
        of("ViTForImageClassification", "ViTConfig", **VIT, **LABELS, problem_type="multi_label_classification"),
        images(),
        "multi_label",
        "logits",
        mlps("vit.layers.{}.mlp", 2),
    ),
    Family(
        "ViTForImageClassification-regression",
        of("ViTForImageClassification", "ViTConfig", **VIT, num_labels=1),
        images(),
        "regression",
        "logits",
        mlps("vit.layers.{}.mlp", 2),
        "one label: the head is a regression",
    ),
    backbone("ViTModel", "ViT", "layers.{}.mlp"),
    Family(
        "ViTForMaskedImageModeling",
        of("ViTForMaskedImageModeling", "ViTConfig", **VIT, encoder_stride=8),
        images(),
        "regression",
        "reconstruction",
        mlps("vit.layers.{}.mlp", 2),
        "no auto class of classification; the decoder is one convolution",
    ),
    classifier("DeiTForImageClassification", "DeiT", "deit.layers.{}.mlp"),
    classifier("DeiTForImageClassificationWithTeacher", "DeiT", "deit.layers.{}.mlp"),
    backbone("DeiTModel", "DeiT", "layers.{}.mlp"),
    classifier("ViTMSNForImageClassification", "ViTMSN", "vit.layers.{}.mlp"),
    classifier("IJepaForImageClassification", "IJepa", "ijepa.layers.{}.mlp"),
    Family(
        "ViTMAEModel",
        of("ViTMAEModel", "ViTMAEConfig", **VIT),
        joined(images(), values(16, key="noise")),
        "tokens",
        "last_hidden_state",
        mlps("layers.{}.mlp", 2),
        "masks at random where the batch has no `noise`",
    ),
    Family(
        "ViTMAEForPreTraining",
        of(
            "ViTMAEForPreTraining",
            "ViTMAEConfig",
            **VIT,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
        ),
        images(),
        "regression",
        "logits",
        mlps("vit.layers.{}.mlp", 2),
        "masks at random: every forward pass differs",
        excluded={"decoder": "decoder of the pre-training task"},
        deterministic=False,
    ),
]

BEIT_FAMILIES = [
    classifier("BeitForImageClassification", "Beit", "beit.layers.{}.mlp", use_relative_position_bias=True),
    backbone("BeitModel", "Beit", "layers.{}.mlp"),
    classifier("Data2VecVisionForImageClassification", "Data2VecVision", "data2vec_vision.encoder.layer.{}", *DENSE),
]

DINO_FAMILIES = [
    Family(
        "Dinov2ForImageClassification",
        of("Dinov2ForImageClassification", "Dinov2Config", **VIT_WITH_RATIO, **LABELS),
        images(),
        "logits",
        "logits",
        mlps("dinov2.encoder.layer.{}.mlp", 2),
    ),
    Family(
        "Dinov2ForImageClassification-swiglu",
        of("Dinov2ForImageClassification", "Dinov2Config", **VIT_WITH_RATIO, **LABELS, use_swiglu_ffn=True),
        images(),
        "logits",
        "logits",
        mlps("dinov2.encoder.layer.{}.mlp", 2, *GATED),
        "gate and up are one packed `weights_in` in files",
    ),
    Family(
        "Dinov2Model",
        of("Dinov2Model", "Dinov2Config", **VIT_WITH_RATIO),
        images(),
        "pooled",
        "pooler_output",
        mlps("encoder.layer.{}.mlp", 2),
    ),
    Family(
        "Dinov2Backbone",
        of("Dinov2Backbone", "Dinov2Config", **VIT_WITH_RATIO, out_indices=[1, 2]),
        images(),
        "feature_maps",
        "feature_maps",
        mlps("encoder.layer.{}.mlp", 2),
    ),
    Family(
        "Dinov2WithRegistersForImageClassification",
        of("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", **VIT_WITH_RATIO, **LABELS),
        images(),
        "logits",
        "logits",
        mlps("dinov2_with_registers.encoder.layer.{}.mlp", 2),
    ),
    Family(
        "Dinov2WithRegistersModel-swiglu",
        of("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **VIT_WITH_RATIO, use_swiglu_ffn=True),
        images(),
        "pooled",
        "pooler_output",
        mlps("encoder.layer.{}.mlp", 2, *GATED),
    ),
    Family(
        "DINOv3ViTModel",
        of("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, num_register_tokens=2),
        images(),
        "pooled",
        "pooler_output",
        mlps("model.layer.{}.mlp", 2, "up_proj", "down_proj"),
    ),
    Family(
        "DINOv3ViTModel-no_bias",
        of("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, mlp_bias=False),
        images(),
        "pooled",
        "pooler_output",
        mlps("model.layer.{}.mlp", 2, "up_proj", "down_proj", bias=False),
    ),
    Family(
        "DINOv3ViTModel-gated",
        of("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, use_gated_mlp=True, hidden_act="silu"),
        images(),
        "pooled",
        "pooler_output",
        mlps("model.layer.{}.mlp", 2, *GATED),
    ),
    Family(
        "DINOv3ViTModel-gated_no_bias",
        of("DINOv3ViTModel", "DINOv3ViTConfig", **VIT, use_gated_mlp=True, hidden_act="silu", mlp_bias=False),
        images(),
        "pooled",
        "pooler_output",
        mlps("model.layer.{}.mlp", 2, *GATED, bias=False),
    ),
    Family(
        "DINOv3ViTBackbone",
        of("DINOv3ViTBackbone", "DINOv3ViTConfig", **VIT, out_indices=[1, 2]),
        images(),
        "feature_maps",
        "feature_maps",
        mlps("model.layer.{}.mlp", 2, "up_proj", "down_proj"),
    ),
]

IMAGE_GPT: dict[str, Any] = {"vocab_size": 17, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
PERCEIVER: dict[str, Any] = {
    "num_latents": 4,
    "d_latents": 16,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "self_attention_widening_factor": 2,
    "cross_attention_widening_factor": 2,
    "image_size": 32,
}


def colours(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The colour clusters of 16 pixels; the last entry of the vocabulary is the start token."""
    return {"input_ids": torch.stack([numbers(16, 16, item=start + i, seed=seed) for i in range(n)])}


def image_gpt(name: str, prefix: str, kind: str, output: str, **options: Any) -> Family:
    """An ImageGPT; its input is the colours of pixels."""
    sites = mlps(prefix + "h.{}.mlp", 2, "c_fc", "c_proj", kind="Conv1D")
    return Family(name, of(name, "ImageGPTConfig", **IMAGE_GPT, **options), colours, kind, output, sites)


def perceiver(name: str) -> Family:
    """A Perceiver: the self-attention blocks run twice with the same weights."""
    return Family(
        name,
        of(name, "PerceiverConfig", **PERCEIVER, **LABELS),
        images(),
        "logits",
        "logits",
        (
            *mlps("perceiver.encoder.cross_attention.mlp", 1, *DENSE_12),
            *mlps("perceiver.encoder.self_attends.{}.mlp", 2, *DENSE_12, calls=2),
        ),
        "shared weights: statistics pool the tokens of both calls",
        excluded={"perceiver.decoder": "decoder"},
    )


OTHER_FAMILIES = [
    image_gpt("ImageGPTForImageClassification", "transformer.", "logits", "logits", **LABELS),
    image_gpt("ImageGPTModel", "", "tokens", "last_hidden_state"),
    perceiver("PerceiverForImageClassificationLearned"),
    perceiver("PerceiverForImageClassificationFourier"),
    perceiver("PerceiverForImageClassificationConvProcessing"),
]

FAMILIES = [*VIT_FAMILIES, *BEIT_FAMILIES, *DINO_FAMILIES, *OTHER_FAMILIES]
