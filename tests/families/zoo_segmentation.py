"""Semantic and universal segmentation, and the encoders of SAM."""

from typing import Any

import torch

from .batches import images, joined
from .family import Family, Site, mlps, nested, of
from .sizes import LABELS, VIT, VIT_WITH_RATIO

DEEPER = {**VIT, "num_hidden_layers": 4}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "window_size": 2,
    "mlp_ratio": 2.0,
    "out_indices": [1, 2, 3, 4],
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "out_indices": [1, 2, 3, 4]}
SEGFORMER: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 16,
}
MASK2FORMER: dict[str, Any] = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 24,
    "num_queries": 4,
}
STAGES = [1, 1, 1, 1]


def semantic(
    name: str, config_name: str, sites: tuple[Site, ...], size: int, notes: str = "", **options: Any
) -> Family:
    """A segmenter of five classes of pixels."""
    build = of(name.partition("-")[0], config_name, **options, **LABELS)
    return Family(name, build, images(size), "pixel_classes", "logits", sites, notes)


SEMANTIC = [
    semantic(
        "BeitForSemanticSegmentation",
        "BeitConfig",
        (*mlps("beit.layers.{}.mlp", 3), *mlps("beit.layers.3.mlp", used=False)),
        32,
        "reads the hidden states before the blocks of out_indices, so the last MLP is not used",
        **DEEPER,
        out_indices=[1, 2, 3, 4],
        use_auxiliary_head=False,
    ),
    semantic(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        mlps("segformer.stages.{}.blocks.{}.mlp", [1, 2], between="dwconv.dwconv"),
        32,
        **SEGFORMER,
    ),
    semantic(
        "UperNetForSemanticSegmentation-swin",
        "UperNetConfig",
        mlps("backbone.swin.encoder.layers.{}.blocks.{}.mlp", STAGES),
        64,
        backbone_config=nested("SwinConfig", **SWIN),
        hidden_size=16,
        use_auxiliary_head=False,
    ),
    semantic(
        "UperNetForSemanticSegmentation-convnext",
        "UperNetConfig",
        mlps("backbone.encoder.stages.{}.layers.{}", STAGES, "pwconv1", "pwconv2"),
        64,
        backbone_config=nested("ConvNextConfig", **CONVNEXT),
        hidden_size=16,
        auxiliary_in_channels=16,
        auxiliary_channels=8,
    ),
]

UNIVERSAL = [
    Family(
        "Mask2FormerForUniversalSegmentation",
        of(
            "Mask2FormerForUniversalSegmentation",
            "Mask2FormerConfig",
            backbone_config=nested("SwinConfig", **SWIN),
            **MASK2FORMER,
            **LABELS,
        ),
        joined(images(64), lambda n, seed=0, start=0: {"pixel_mask": torch.ones(n, 64, 64, dtype=torch.long)}),
        "masks",
        "masks_queries_logits",
        mlps("model.pixel_level_module.encoder.swin.encoder.layers.{}.blocks.{}.mlp", STAGES),
        excluded={
            "model.pixel_level_module.decoder": "pixel decoder",
            "model.transformer_module": "transformer decoder",
        },
        also={"class_queries_logits": "queries"},
    ),
    Family(
        "EomtForUniversalSegmentation",
        of(
            "EomtForUniversalSegmentation",
            "EomtConfig",
            **VIT_WITH_RATIO,
            **LABELS,
            num_blocks=1,
            num_queries=4,
            num_upscale_blocks=1,
        ),
        images(),
        "masks",
        "masks_queries_logits",
        mlps("layers.{}.mlp", 2),
        "the last blocks see the queries too",
        excluded={"mask_head": "head"},
        also={"class_queries_logits": "queries"},
    ),
]

SAM: dict[str, Any] = {
    "hidden_size": 16,
    "output_channels": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "mlp_ratio": 2.0,
    "window_size": 2,
    "global_attn_indexes": [1],
    "num_pos_feats": 4,
}
DECODER: dict[str, Any] = {
    "hidden_size": 8,
    "mlp_dim": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 8,
}
PROMPTS: dict[str, Any] = {"hidden_size": 8, "mask_input_channels": 4}
HIERA: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 1,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 24, 32],
    "num_attention_heads_per_stage": [1, 2, 2, 2],
    "window_size_per_stage": [4, 4, 4, 2],
    "global_attention_blocks": [3],
    "mlp_ratio": 2.0,
    "window_positional_embedding_background_size": [4, 4],
}
SAM2_NECK: dict[str, Any] = {
    "backbone_channel_list": [32, 24, 16, 8],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 8,
}
PROJ = ("proj_in", "proj_out")


def points(size: int) -> Any:
    """One prompt of two points for each image."""

    def batch(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
        places = torch.stack(
            [
                torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(5_000_003 * seed + item)) * size
                for item in range(start, start + n)
            ]
        )
        return {"input_points": places, "input_labels": torch.ones(n, 1, 2, dtype=torch.long)}

    return batch


def sam2_vision() -> Any:
    """The config of the image encoder of SAM2."""
    return nested("Sam2VisionConfig", backbone_config=nested("Sam2HieraDetConfig", **HIERA), **SAM2_NECK)


SAM_FAMILIES = [
    Family(
        "SamVisionModel",
        of("SamVisionModel", "SamVisionConfig", **SAM),
        images(),
        "feature_maps",
        "last_hidden_state",
        mlps("vision_encoder.layers.{}.mlp", 2, "lin1", "lin2"),
    ),
    Family(
        "SamModel",
        of(
            "SamModel",
            "SamConfig",
            vision_config=nested("SamVisionConfig", **SAM),
            prompt_encoder_config=nested("SamPromptEncoderConfig", **PROMPTS, image_size=32, patch_size=8),
            mask_decoder_config=nested("SamMaskDecoderConfig", **DECODER),
        ),
        joined(images(), points(32)),
        "masks",
        "pred_masks",
        mlps("vision_encoder.layers.{}.mlp", 2, "lin1", "lin2"),
        "the prompts are part of the inputs, which the command line does not prepare",
        excluded={"mask_decoder": "decoder"},
    ),
    Family(
        "Sam2HieraDetModel",
        of("Sam2HieraDetModel", "Sam2HieraDetConfig", **HIERA),
        images(64),
        "feature_maps",
        "last_hidden_state",
        mlps("blocks.{}.mlp", 5, *PROJ),
    ),
    Family(
        "Sam2VisionModel",
        of(
            "Sam2VisionModel",
            "Sam2VisionConfig",
            backbone_config=nested("Sam2HieraDetConfig", **HIERA),
            **SAM2_NECK,
        ),
        images(64),
        "feature_maps",
        "fpn_hidden_states",
        mlps("backbone.blocks.{}.mlp", 5, *PROJ),
    ),
    Family(
        "Sam2Model",
        of(
            "Sam2Model",
            "Sam2Config",
            vision_config=sam2_vision(),
            prompt_encoder_config=nested("Sam2PromptEncoderConfig", **PROMPTS, image_size=64, patch_size=16),
            mask_decoder_config=nested("Sam2MaskDecoderConfig", **DECODER),
        ),
        joined(images(64), points(64)),
        "masks",
        "pred_masks",
        mlps("vision_encoder.backbone.blocks.{}.mlp", 5, *PROJ),
        "the prompts are part of the inputs, which the command line does not prepare",
        excluded={"mask_decoder": "decoder"},
    ),
]

FAMILIES = [*SEMANTIC, *UNIVERSAL, *SAM_FAMILIES]
