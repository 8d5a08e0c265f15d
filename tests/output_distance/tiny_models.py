"""Tiny random models of real classes, each with inputs of two images."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

Built = tuple[Any, dict[str, Any]]

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 2,
}


def images(size: int = 32) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def videos(frames: int = 2) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, frames, 3, 32, 32)}


def with_texts(texts: int = 3) -> dict[str, Any]:
    tokens = torch.randint(3, 50, (texts, 8))
    tokens[:, -1] = 2
    return {**images(), "input_ids": tokens}


def vit(name: str, **changes: Any) -> Callable[[], Built]:
    return lambda: (getattr(t, name)(t.ViTConfig(**{**SIZES, "num_labels": 5, **changes})), images())


def plain(name: str, config: str, **changes: Any) -> Callable[[], Built]:
    return lambda: (getattr(t, name)(getattr(t, config)(**{**SIZES, **changes})), images())


def clip_parts(text: type, vision: type) -> dict[str, Any]:
    return {"text_config": text(**TEXT).to_dict(), "vision_config": vision(**SIZES).to_dict()}


def clip() -> Built:
    return t.CLIPModel(
        t.CLIPConfig(**clip_parts(t.CLIPTextConfig, t.CLIPVisionConfig), projection_dim=12)
    ), with_texts()


def siglip() -> Built:
    return t.SiglipModel(t.SiglipConfig(**clip_parts(t.SiglipTextConfig, t.SiglipVisionConfig))), with_texts()


def clipseg() -> Built:
    parts = clip_parts(t.CLIPSegTextConfig, t.CLIPSegVisionConfig)
    config = t.CLIPSegConfig(
        **parts,
        projection_dim=12,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    return t.CLIPSegForImageSegmentation(config), with_texts(2)


def owlvit() -> Built:
    config = t.OwlViTConfig(**clip_parts(t.OwlViTTextConfig, t.OwlViTVisionConfig), projection_dim=16)
    # Two queries for each image.
    return t.OwlViTForObjectDetection(config), with_texts(4)


def convolutions() -> Any:
    return t.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def detr() -> Built:
    config = t.DetrConfig(
        backbone_config=t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        ),
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=4,
        num_labels=3,
    )
    return t.DetrForObjectDetection(config), images(64)


def rt_detr() -> Built:
    config = t.RTDetrConfig(
        backbone_config=t.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8] * 4,
            depths=[1] * 4,
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=16,
        decoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        d_model=16,
        num_queries=4,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        num_labels=3,
        anchor_image_size=None,
    )
    return t.RTDetrForObjectDetection(config), images(64)


def segformer(name: str, **changes: Any) -> Callable[[], Built]:
    config = {
        "depths": [1] * 4,
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
        "num_labels": 4,
        **changes,
    }
    return lambda: (getattr(t, name)(t.SegformerConfig(**config)), images(64))


def mask2former() -> Built:
    config = t.Mask2FormerConfig(
        backbone_config=t.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
        num_labels=3,
    )
    return t.Mask2FormerForUniversalSegmentation(config), images()


def dpt() -> Built:
    config = t.DPTConfig(
        **{**SIZES, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    model = t.DPTForDepthEstimation(config)
    # The last layer is a ReLU.
    torch.nn.init.constant_(model.head.head[-2].bias, 100.0)
    return model, images()


def vitpose() -> Built:
    backbone = t.VitPoseBackboneConfig(**{**SIZES, "image_size": [32, 32], "patch_size": [8, 8]}, out_indices=[2])
    return t.VitPoseForPoseEstimation(t.VitPoseConfig(backbone_config=backbone, num_labels=3)), images()


def sam_vision() -> Built:
    config = t.SamVisionConfig(**SIZES, mlp_dim=24, output_channels=8, global_attn_indexes=[0], window_size=2)
    return t.SamVisionModel(config), images()


def video_mae(name: str) -> Callable[[], Built]:
    config = {**SIZES, "num_frames": 2, "num_labels": 5, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    config |= {"decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}

    def build() -> Built:
        inputs = videos()
        if name == "VideoMAEForPreTraining":
            inputs["bool_masked_pos"] = (torch.arange(16) % 2 == 0).expand(2, 16)
        return getattr(t, name)(t.VideoMAEConfig(**config)), inputs

    return build


def convnext(name: str, **changes: Any) -> Callable[[], Built]:
    config = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "image_size": 32, **changes}
    return lambda: (getattr(t, name)(t.ConvNextConfig(**config)), images())


def cvt() -> Built:
    config = t.CvtConfig(embed_dim=[8, 8, 16], num_heads=[1, 1, 2], depth=[1, 2, 3])
    return t.CvtModel(config), images(64)


def masked_image_modeling() -> Built:
    config = t.ViTConfig(**SIZES, encoder_stride=8)
    return t.ViTForMaskedImageModeling(config), images()


def beit_tokens() -> Built:
    inputs = {**images(), "bool_masked_pos": (torch.arange(16) % 2 == 0).expand(2, 16)}
    return t.BeitForMaskedImageModeling(t.BeitConfig(**SIZES, vocab_size=20, use_mask_token=True)), inputs


def upernet() -> Built:
    backbone = t.ConvNextConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = t.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=4, auxiliary_channels=8, auxiliary_in_channels=8
    )
    return t.UperNetForSemanticSegmentation(config), images(64)


def sam2_vision() -> Built:
    backbone = t.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1] * 4,
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1] * 4,
        window_size_per_stage=[4] * 4,
        window_positional_embedding_background_size=[2, 2],
        global_attention_blocks=[],
    )
    config = t.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=8,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    return t.Sam2VisionModel(config), images(64)


def image_gpt() -> Built:
    config = t.ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, n_inner=24, vocab_size=21, n_positions=16)
    return t.ImageGPTForCausalImageModeling(config), {"input_ids": torch.randint(0, 20, (2, 16))}


def llava() -> Built:
    text = t.LlamaConfig(**{**TEXT, "num_key_value_heads": 2})
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**SIZES),
        text_config=text,
        image_token_index=49,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    tokens = torch.cat([torch.full((2, 16), 49), torch.randint(3, 40, (2, 4))], 1)
    return t.LlavaForConditionalGeneration(config), {**images(), "input_ids": tokens}


def mae_decoder() -> dict[str, Any]:
    sizes = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}
    return {**sizes, "decoder_num_attention_heads": 2}


# Class, how to build it, and the expected parts with their kinds.
TABLE: dict[str, tuple[Callable[[], Built], dict[str, str]]] = {
    "ViTForImageClassification": (vit("ViTForImageClassification"), {"logits": "logits"}),
    "ViTForImageClassification, regression": (
        vit("ViTForImageClassification", num_labels=1),
        {"logits": "regression"},
    ),
    "ViTForImageClassification, several numbers": (
        vit("ViTForImageClassification", problem_type="regression"),
        {"logits": "regression"},
    ),
    "ViTForImageClassification, multi-label": (
        vit("ViTForImageClassification", problem_type="multi_label_classification"),
        {"logits": "multi_label"},
    ),
    "ViTForImageClassification, no head": (
        vit("ViTForImageClassification", num_labels=0),
        {"logits": "features"},
    ),
    "VideoMAEForVideoClassification": (video_mae("VideoMAEForVideoClassification"), {"logits": "logits"}),
    "DetrForObjectDetection": (detr, {"logits": "logits", "pred_boxes": "boxes"}),
    "YolosForObjectDetection": (
        plain("YolosForObjectDetection", "YolosConfig", image_size=[32, 32], num_detection_tokens=4, num_labels=3),
        {"logits": "logits", "pred_boxes": "boxes"},
    ),
    "RTDetrForObjectDetection": (rt_detr, {"logits": "multi_label", "pred_boxes": "boxes"}),
    "OwlViTForObjectDetection": (owlvit, {"logits": "multi_label", "pred_boxes": "boxes"}),
    "SegformerForSemanticSegmentation": (
        segformer("SegformerForSemanticSegmentation"),
        {"logits": "pixel_classes"},
    ),
    "SegformerForSemanticSegmentation, one class": (
        segformer("SegformerForSemanticSegmentation", num_labels=1),
        {"logits": "masks"},
    ),
    "UperNetForSemanticSegmentation": (upernet, {"logits": "pixel_classes"}),
    "Mask2FormerForUniversalSegmentation": (
        mask2former,
        {"class_queries_logits": "logits", "masks_queries_logits": "masks"},
    ),
    "CLIPSegForImageSegmentation": (clipseg, {"logits": "masks"}),
    "DPTForDepthEstimation": (dpt, {"predicted_depth": "depth"}),
    "VitPoseForPoseEstimation": (vitpose, {"heatmaps": "heat_maps"}),
    "CLIPModel": (clip, {"image_embeds": "embeddings"}),
    "SiglipModel": (siglip, {"image_embeds": "embeddings"}),
    "CLIPVisionModelWithProjection": (
        plain("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        {"image_embeds": "embeddings"},
    ),
    "SiglipVisionModel": (plain("SiglipVisionModel", "SiglipVisionConfig"), {"pooler_output": "features"}),
    "SiglipVisionModel, no head": (
        plain("SiglipVisionModel", "SiglipVisionConfig", vision_use_head=False),
        {"last_hidden_state": "features of mean_of_tokens"},
    ),
    "ViTModel": (vit("ViTModel"), {"pooler_output": "features"}),
    "ViTModel, no pooler": (
        lambda: (t.ViTModel(t.ViTConfig(**SIZES), add_pooling_layer=False), images()),
        {"last_hidden_state": "features of first_token"},
    ),
    "IJepaModel": (
        lambda: (t.IJepaModel(t.IJepaConfig(**SIZES), add_pooling_layer=False), images()),
        {"last_hidden_state": "features of mean_of_tokens"},
    ),
    "VideoMAEModel": (video_mae("VideoMAEModel"), {"last_hidden_state": "features of mean_of_tokens"}),
    "TimesformerModel": (
        lambda: (t.TimesformerModel(t.TimesformerConfig(**SIZES, num_frames=2)), videos()),
        {"last_hidden_state": "features of first_token"},
    ),
    "PvtModel": (
        lambda: (
            t.PvtModel(t.PvtConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, image_size=64)),
            images(64),
        ),
        {"last_hidden_state": "features of first_token"},
    ),
    "ConvNextModel": (convnext("ConvNextModel"), {"pooler_output": "features"}),
    "ResNetModel": (lambda: (t.ResNetModel(convolutions()), images()), {"pooler_output": "features of flat"}),
    "CvtModel": (cvt, {"cls_token_value": "features of flat"}),
    "SegformerModel": (segformer("SegformerModel"), {"last_hidden_state": "feature_maps"}),
    "Sam2VisionModel": (sam2_vision, {f"fpn_hidden_states.{i}": "feature_maps" for i in range(3)}),
    "SamVisionModel": (sam_vision, {"last_hidden_state": "feature_maps"}),
    "Dinov2Model": (plain("Dinov2Model", "Dinov2Config"), {"pooler_output": "features"}),
    "Dinov2Backbone": (
        plain("Dinov2Backbone", "Dinov2Config", out_features=["stage1", "stage2"]),
        {"feature_maps.0": "feature_maps", "feature_maps.1": "feature_maps"},
    ),
    "ViTMAEForPreTraining": (
        plain("ViTMAEForPreTraining", "ViTMAEConfig", **mae_decoder()),
        {"logits": "regression"},
    ),
    "VideoMAEForPreTraining": (video_mae("VideoMAEForPreTraining"), {"logits": "regression"}),
    "ViTForMaskedImageModeling": (masked_image_modeling, {"reconstruction": "heat_maps"}),
    "ImageGPTForCausalImageModeling": (image_gpt, {"logits": "logits"}),
    "LlavaForConditionalGeneration": (llava, {"logits": "logits"}),
    "BeitForMaskedImageModeling": (beit_tokens, {"logits": "logits"}),
}
