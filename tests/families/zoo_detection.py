"""Detectors and pose estimators, and the backbones made for them."""

from typing import Any

import torch

from .batches import images, joined, numbers, stacked
from .family import Family, mlps, nested, of
from .sizes import DENSE, TEXT, VIT, VIT_WITH_RATIO

SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1],
    "num_heads": [2, 2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
DETR: dict[str, Any] = {
    "num_queries": 4,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 16,
    "num_labels": 5,
}
RT_DETR: dict[str, Any] = {
    **DETR,
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 32],
    "feat_strides": [4, 8, 16],
    "decoder_in_channels": [16, 16, 16],
}
RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}
BOXES = {"pred_boxes": "boxes"}
HEADS = {"class_labels_classifier": "head", "bbox_predictor": "head"}
NECK = "transformer of the detector, behind the backbone"
PARTS = {"model.encoder": NECK, "model.decoder": NECK, "bbox_predictor": "head"}


def swin(*indices: int) -> Any:
    """The config of a Swin backbone."""
    return nested("SwinConfig", **SWIN, out_indices=list(indices))


SWIN_SITES = mlps("model.backbone.model.swin.encoder.layers.{}.blocks.{}.mlp", [1, 1, 1])


def pose(name: str, **options: Any) -> Family:
    """A pose estimator of three key points, over a ViT."""
    build = of(
        name.partition("-")[0],
        "VitPoseConfig",
        backbone_config=nested("VitPoseBackboneConfig", **POSE, out_indices=[2]),
        num_labels=3,
        **options,
    )
    return Family(name, build, images(), "heat_maps", "heatmaps", mlps("backbone.encoder.layer.{}.mlp", 2))


def padded(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """Images of several sizes, padded to 64 pixels, with the mask of the processor."""
    pixels, masks = stacked((3, 64, 64), n, seed, start), torch.zeros(n, 64, 64, dtype=torch.long)
    for row in range(n):
        height, width = 64 - 8 * ((start + row) % 3), 64 - 8 * ((start + row) % 2)
        masks[row, :height, :width] = 1
        pixels[row] *= masks[row]
    return {"pixel_values": pixels, "pixel_mask": masks}


def datasets(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The data set of each image, which chooses the expert."""
    return {"dataset_index": torch.arange(start, start + n) % 2}


def queries(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """Two texts of 8 tokens for each image, one below the other."""
    rows = [2 + numbers(46, 2, 8, item=item, seed=seed) for item in range(start, start + n)]
    ids = torch.cat(rows)
    ids[:, -1] = 49
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def owl(prefix: str) -> Family:
    """An open-vocabulary detector; its texts are part of the inputs."""
    name, attribute = f"{prefix}ForObjectDetection", prefix.lower()
    return Family(
        name,
        of(
            name,
            f"{prefix}Config",
            vision_config=nested(f"{prefix}VisionConfig", **VIT),
            text_config=nested(f"{prefix}TextConfig", **TEXT),
            projection_dim=16,
        ),
        joined(images(), queries),
        "queries",
        "logits",
        mlps(f"{attribute}.vision_model.encoder.layers.{{}}.mlp", 2),
        "the texts are part of the inputs, two for each image",
        excluded={
            f"{attribute}.text_model": "text tower",
            "box_head": "head",
            "class_head": "head",
            **({"objectness_head": "head"} if prefix == "Owlv2" else {}),
        },
        also=BOXES,
    )


DETECTORS = [
    Family(
        "YolosForObjectDetection",
        of(
            "YolosForObjectDetection",
            "YolosConfig",
            **{**VIT, "image_size": [32, 32]},
            num_detection_tokens=4,
            num_labels=5,
        ),
        images(),
        "queries",
        "logits",
        mlps("vit.encoder.layer.{}", 2, *DENSE),
        excluded=HEADS,
        also=BOXES,
    ),
    Family(
        "DetrForObjectDetection",
        of("DetrForObjectDetection", "DetrConfig", **DETR, backbone_config=swin(3)),
        padded,
        "queries",
        "logits",
        SWIN_SITES,
        "pixel_mask: padded pixels reach the backbone as zeros",
        excluded=PARTS,
        also=BOXES,
    ),
    Family(
        "DetrForObjectDetection-resnet",
        of("DetrForObjectDetection", "DetrConfig", **DETR, backbone_config=nested("ResNetConfig", **RESNET)),
        padded,
        "queries",
        "logits",
        (),
        "the backbone, a ResNet, has no MLP",
        excluded={
            "model.encoder": "it belongs to the detector, not to its backbone",
            "model.decoder": "it belongs to a decoder",
            "bbox_predictor": "it belongs to a head",
        },
        also=BOXES,
    ),
    Family(
        "DetrForSegmentation",
        of(
            "DetrForSegmentation",
            "DetrConfig",
            **{**DETR, "encoder_attention_heads": 8, "decoder_attention_heads": 8},
            backbone_config=swin(0, 1, 2, 3),
        ),
        padded,
        "masks",
        "pred_masks",
        mlps("detr.model.backbone.model.swin.encoder.layers.{}.blocks.{}.mlp", [1, 1, 1]),
        excluded={f"detr.{part}": reason for part, reason in PARTS.items()},
        also={"logits": "queries", **BOXES},
    ),
    Family(
        "RTDetrForObjectDetection",
        of("RTDetrForObjectDetection", "RTDetrConfig", **RT_DETR, backbone_config=swin(1, 2, 3)),
        images(64),
        "queries",
        "logits",
        SWIN_SITES,
        excluded={"model.encoder": NECK, "model.decoder": NECK, "model.enc_bbox_head": "head"},
        also=BOXES,
    ),
    owl("OwlViT"),
    owl("Owlv2"),
]

VITDET: dict[str, Any] = {
    **VIT_WITH_RATIO,
    "window_size": 2,
    "window_block_indices": [0],
    "residual_block_indices": [],
}
LW_DETR: dict[str, Any] = {
    **VIT_WITH_RATIO,
    "pretrain_image_size": 32,
    "num_windows": 1,
    "num_windows_side": 1,
    "window_block_indices": [0],
    "out_indices": [1, 2],
}
POSE: dict[str, Any] = {
    **VIT_WITH_RATIO,
    "image_size": [32, 32],
    "patch_size": [8, 8],
}
BACKBONES = [
    Family(
        "VitDetBackbone",
        of("VitDetBackbone", "VitDetConfig", **VITDET, out_indices=[1, 2]),
        images(),
        "feature_maps",
        "feature_maps",
        mlps("encoder.layer.{}.mlp", 2),
    ),
    Family(
        "LwDetrViTBackbone",
        of("LwDetrViTBackbone", "LwDetrViTConfig", **LW_DETR),
        images(),
        "feature_maps",
        "feature_maps",
        mlps("encoder.layer.{}.intermediate", 2),
    ),
    pose("VitPoseForPoseEstimation"),
    pose("VitPoseForPoseEstimation-classic", use_simple_decoder=False),
    Family(
        "VitPoseForPoseEstimation-experts",
        of(
            "VitPoseForPoseEstimation",
            "VitPoseConfig",
            backbone_config=nested("VitPoseBackboneConfig", **POSE, out_indices=[2], num_experts=2, part_features=8),
            num_labels=3,
        ),
        joined(images(), datasets),
        "heat_maps",
        "heatmaps",
        (),
        "ViTPose+: experts read the hidden neurons too",
        excluded={
            "backbone.encoder.layer": "it expands and reduces the channels, but the table has no such layout",
        },
    ),
]

FAMILIES = [*DETECTORS, *BACKBONES]
