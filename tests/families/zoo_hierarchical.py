"""Transformers whose resolution falls from stage to stage."""

from typing import Any

from .batches import images
from .family import Family, Site, mlps, of, settled
from .sizes import DENSE, DENSE_12, LABELS

DEPTHS = [1, 2]
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": DEPTHS,
    "num_heads": [2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
HIERA: dict[str, Any] = {
    "image_size": [32, 32],
    "patch_size": [3, 3],
    "patch_stride": [2, 2],
    "patch_padding": [1, 1],
    "embed_dim": 8,
    "depths": DEPTHS,
    "num_heads": [1, 2],
    "num_query_pool": 1,
    "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False],
    "mlp_ratio": 2.0,
}
PYRAMID: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": DEPTHS,
    "hidden_sizes": [8, 16],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
}
PVT = {**PYRAMID, "image_size": 32, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2]}
PVT_V2 = {**PYRAMID, "image_size": 32, "sr_ratios": [2, 1], "patch_sizes": [7, 3]}
SEGFORMER = {**PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [7, 3]}
FOCALNET: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "hidden_sizes": [8, 16],
    "depths": DEPTHS,
    "focal_levels": [1, 2],
    "focal_windows": [3, 3],
    "mlp_ratio": 2.0,
    "use_layerscale": True,
}
LEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 16, 24],
    "num_attention_heads": [2, 2, 2],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
}


def swin(prefix: str = "") -> tuple[Site, ...]:
    """The MLPs of a Swin of two stages."""
    return mlps(prefix + "encoder.layers.{}.blocks.{}.mlp", DEPTHS)


def entry(
    name: str,
    config: str,
    options: dict[str, Any],
    sites: tuple[Site, ...],
    kind: str = "logits",
    output: str = "logits",
    notes: str = "",
    size: int = 32,
) -> Family:
    """An entry of images alone; classifiers have five classes."""
    labels = LABELS if kind == "logits" else {}
    build = of(name.partition("-")[0], config, **options, **labels)
    if config in ("LevitConfig", "CvtConfig"):
        build = settled(build, images(size))
    return Family(name, build, images(size), kind, output, sites, notes)


SWIN_FAMILIES = [
    entry("SwinForImageClassification", "SwinConfig", SWIN, swin("swin.")),
    entry("SwinModel", "SwinConfig", SWIN, swin(), "pooled", "pooler_output"),
    entry(
        "SwinBackbone",
        "SwinConfig",
        {**SWIN, "out_indices": [1, 2]},
        swin("swin."),
        "feature_maps",
        "feature_maps",
    ),
    entry(
        "SwinForMaskedImageModeling",
        "SwinConfig",
        {**SWIN, "encoder_stride": 8},
        swin("swin."),
        "regression",
        "reconstruction",
    ),
    entry(
        "Swinv2ForImageClassification",
        "Swinv2Config",
        SWIN,
        mlps("swinv2.encoder.layers.{}.blocks.{}", DEPTHS, *DENSE),
        notes="LayerNorm after each MLP",
    ),
    entry(
        "DonutSwinModel",
        "DonutSwinConfig",
        SWIN,
        mlps("encoder.layers.{}.blocks.{}", DEPTHS, *DENSE),
        "pooled",
        "pooler_output",
    ),
    entry(
        "DonutSwinForImageClassification",
        "DonutSwinConfig",
        SWIN,
        mlps("donut.encoder.layers.{}.blocks.{}", DEPTHS, *DENSE),
    ),
]

HIERA_FAMILIES = [
    entry("HieraForImageClassification", "HieraConfig", HIERA, mlps("hiera.encoder.stages.{}.layers.{}.mlp", DEPTHS)),
    entry(
        "HieraModel",
        "HieraConfig",
        HIERA,
        mlps("encoder.stages.{}.layers.{}.mlp", DEPTHS),
        "pooled",
        "pooler_output",
    ),
    entry(
        "HieraBackbone",
        "HieraConfig",
        {**HIERA, "out_indices": [1, 2]},
        mlps("encoder.stages.{}.layers.{}.mlp", DEPTHS),
        "feature_maps",
        "feature_maps",
    ),
]

PYRAMID_FAMILIES = [
    entry("PvtForImageClassification", "PvtConfig", PVT, mlps("pvt.encoder.block.{}.{}.mlp", DEPTHS, *DENSE_12)),
    entry(
        "PvtV2ForImageClassification",
        "PvtV2Config",
        PVT_V2,
        mlps("pvt_v2.encoder.layers.{}.blocks.{}.mlp", DEPTHS, *DENSE_12, between="dwconv.dwconv"),
    ),
    entry(
        "PvtV2ForImageClassification-linear",
        "PvtV2Config",
        {**PVT_V2, "linear_attention": True},
        mlps("pvt_v2.encoder.layers.{}.blocks.{}.mlp", DEPTHS, *DENSE_12, between="dwconv.dwconv"),
        notes="ReLU between dense1 and the depthwise convolution",
    ),
    entry(
        "PvtV2Backbone",
        "PvtV2Config",
        {**PVT_V2, "out_indices": [0, 1]},
        mlps("encoder.layers.{}.blocks.{}.mlp", DEPTHS, *DENSE_12, between="dwconv.dwconv"),
        "feature_maps",
        "feature_maps",
    ),
    entry(
        "SegformerForImageClassification",
        "SegformerConfig",
        SEGFORMER,
        mlps("segformer.stages.{}.blocks.{}.mlp", DEPTHS, between="dwconv.dwconv"),
    ),
    entry(
        "SegformerModel",
        "SegformerConfig",
        SEGFORMER,
        mlps("stages.{}.blocks.{}.mlp", DEPTHS, between="dwconv.dwconv"),
        "feature_maps",
        "last_hidden_state",
    ),
]

FOCAL = mlps("focalnet.encoder.stages.{}.layers.{}.mlp", DEPTHS)
CVT: dict[str, Any] = {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3], "mlp_ratio": [2.0] * 3}
LEVIT_SITES = mlps(
    "levit.encoder.stages.{}.layers.{}.module",
    [(0, 1), (0, 3), (1, 1), (1, 3), (2, 1)],
    "linear_up.linear",
    "linear_down.linear",
    between="linear_up.batch_norm",
    behind="linear_down.batch_norm",
    bias=False,
)
OTHER_FAMILIES = [
    entry("FocalNetForImageClassification", "FocalNetConfig", FOCALNET, FOCAL),
    entry(
        "FocalNetForImageClassification-post_norm",
        "FocalNetConfig",
        {**FOCALNET, "use_post_layernorm": True},
        FOCAL,
        notes="LayerNorm after each MLP",
    ),
    entry(
        "CvtForImageClassification",
        "CvtConfig",
        CVT,
        mlps("cvt.encoder.stages.{}.layers.{}", [1, 2, 3], *DENSE),
        notes="fewer blocks than these are an IndexError of transformers",
    ),
    entry("LevitForImageClassification", "LevitConfig", LEVIT, LEVIT_SITES, size=64),
    entry("LevitForImageClassificationWithTeacher", "LevitConfig", LEVIT, LEVIT_SITES, size=64),
]

FAMILIES = [*SWIN_FAMILIES, *HIERA_FAMILIES, *PYRAMID_FAMILIES, *OTHER_FAMILIES]
