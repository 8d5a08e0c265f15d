"""Convolutional networks whose blocks hold an MLP of 1x1 convolutions or of channels-last linear layers."""

from typing import Any

from .batches import images
from .family import Family, Site, mlps, of, settled
from .sizes import DENSE, LABELS

DEPTHS = [1, 2]
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": DEPTHS, "num_stages": 2}
POOLFORMER: dict[str, Any] = {
    "num_encoder_blocks": 2,
    "depths": DEPTHS,
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "padding": [2, 1],
    "mlp_ratio": 2.0,
}
SWIFTFORMER: dict[str, Any] = {"depths": [1, 2], "embed_dims": [8, 16], "downsamples": [True, True], "mlp_ratio": 2}
MOBILEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [12, 16, 20],
    "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
    "num_attention_heads": 2,
}
MOBILEVIT_V2: dict[str, Any] = {"image_size": 64, "width_multiplier": 0.125, "n_attn_blocks": [1, 2, 1]}
RESIDUAL = "inverted residual of a convolutional stage, not an MLP of a transformer block"


def entry(
    name: str,
    config: str,
    options: dict[str, Any],
    sites: tuple[Site, ...],
    kind: str = "logits",
    output: str = "logits",
    notes: str = "",
    excluded: dict[str, str] | None = None,
    size: int = 32,
) -> Family:
    """An entry of images alone; classifiers have five classes."""
    labels = LABELS if kind == "logits" else {}
    build = of(name.partition("-")[0], config, **options, **labels)
    if config in ("SwiftFormerConfig", "MobileViTConfig", "MobileViTV2Config"):
        build = settled(build, images(size))
    return Family(name, build, images(size), kind, output, sites, notes, excluded or {})


def convnext(prefix: str = "", **layout: Any) -> tuple[Site, ...]:
    """The MLPs of a ConvNeXt of two stages."""
    return mlps(prefix + "encoder.stages.{}.layers.{}", DEPTHS, "pwconv1", "pwconv2", **layout)


GRN: dict[str, Any] = {"between": "grn", "mixes": True}
CONVNEXT_FAMILIES = [
    entry("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT, convnext("convnext.")),
    entry("ConvNextModel", "ConvNextConfig", CONVNEXT, convnext(), "pooled", "pooler_output"),
    entry(
        "ConvNextBackbone",
        "ConvNextConfig",
        {**CONVNEXT, "out_indices": [1, 2]},
        convnext(),
        "feature_maps",
        "feature_maps",
    ),
    entry("ConvNextV2ForImageClassification", "ConvNextV2Config", CONVNEXT, convnext("convnextv2.", **GRN)),
    entry("ConvNextV2Model", "ConvNextV2Config", CONVNEXT, convnext(**GRN), "pooled", "pooler_output"),
    entry(
        "DINOv3ConvNextModel",
        "DINOv3ConvNextConfig",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
        mlps("model.stages.{}.layers.{}", [1, 1, 1, 1], "pointwise_conv1", "pointwise_conv2"),
        "pooled",
        "pooler_output",
    ),
]

CONVOLUTION: dict[str, Any] = {"kind": "Conv2d"}
POINTWISE = ("point_wise_conv1", "point_wise_conv2")
OTHER_FAMILIES = [
    entry(
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        POOLFORMER,
        mlps("poolformer.encoder.block.{}.{}.output", DEPTHS, "conv1", "conv2", **CONVOLUTION),
    ),
    entry(
        "SwiftFormerForImageClassification",
        "SwiftFormerConfig",
        SWIFTFORMER,
        (
            *mlps("swiftformer.encoder.network.0.blocks.0.linear", 1, **CONVOLUTION),
            *mlps("swiftformer.encoder.network.2.blocks.1.linear", 1, **CONVOLUTION),
            *mlps("swiftformer.encoder.network.0.blocks.0.local_representation", 1, *POINTWISE, **CONVOLUTION),
            *mlps("swiftformer.encoder.network.2.blocks.1.local_representation", 1, *POINTWISE, **CONVOLUTION),
            *mlps("swiftformer.encoder.network.2.blocks.0", 1, *POINTWISE, **CONVOLUTION),
        ),
        notes="the convolution encoders have MLPs like those of ConvNeXt; in the local representations h = d",
    ),
    entry(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        MOBILEVIT,
        (
            *mlps("mobilevit.encoder.layer.2.transformer.layer.{}", 2, *DENSE),
            *mlps("mobilevit.encoder.layer.3.transformer.layer.{}", 4, *DENSE),
            *mlps("mobilevit.encoder.layer.4.transformer.layer.{}", 3, *DENSE),
        ),
        notes="the numbers of blocks are fixed upstream",
        excluded={
            "mobilevit.encoder.layer.0": RESIDUAL,
            "mobilevit.encoder.layer.1": RESIDUAL,
            **{f"mobilevit.encoder.layer.{stage}.downsampling_layer": RESIDUAL for stage in (2, 3, 4)},
        },
        size=64,
    ),
    entry(
        "MobileViTV2ForImageClassification",
        "MobileViTV2Config",
        MOBILEVIT_V2,
        tuple(
            site
            for stage, blocks in ((2, 1), (3, 2), (4, 1))
            for site in mlps(
                f"mobilevitv2.encoder.layer.{stage}.transformer.layer.{{}}.ffn",
                blocks,
                "conv1.convolution",
                "conv2.convolution",
                **CONVOLUTION,
            )
        ),
        excluded={
            "mobilevitv2.encoder.layer.0": RESIDUAL,
            "mobilevitv2.encoder.layer.1": RESIDUAL,
            **{f"mobilevitv2.encoder.layer.{stage}.downsampling_layer": RESIDUAL for stage in (2, 3, 4)},
        },
        size=64,
    ),
]

FAMILIES = [*CONVNEXT_FAMILIES, *OTHER_FAMILIES]
