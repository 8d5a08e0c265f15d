"""Models of timm inside TimmWrapper. They need timm and torchvision; without them these entries are skipped."""

from typing import Any

from .batches import images
from .family import Family, Site, mlps, of

VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
SWIN: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
CONVNEXT: dict[str, Any] = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
BLOCKS = "timm_model.blocks.{}.mlp"
GRN: dict[str, Any] = {"between": "grn", "mixes": True}


def entry(
    variant: str, architecture: str, options: dict[str, Any], sites: tuple[Site, ...], notes: str = ""
) -> Family:
    """A classifier of five classes with a timm architecture, made smaller by its arguments."""
    build = of(
        "TimmWrapperForImageClassification",
        "TimmWrapperConfig",
        architecture=architecture,
        model_args=options,
        num_labels=5,
    )
    name = f"TimmWrapperForImageClassification-{variant}"
    notes = "; ".join(part for part in (f"timm's {architecture}", notes) if part)
    return Family(name, build, images(), "logits", "logits", sites, notes, needs="timm")


def convnext(**layout: Any) -> tuple[Site, ...]:
    """The MLPs of a ConvNeXt of four stages."""
    return mlps("timm_model.stages.{}.blocks.{}.mlp", [1, 1, 1, 1], **layout)


FAMILIES = [
    entry("vit", "vit_tiny_patch16_224", VIT, mlps(BLOCKS, 2)),
    entry("deit", "deit_tiny_distilled_patch16_224", VIT, mlps(BLOCKS, 2)),
    entry(
        "swin",
        "swin_tiny_patch4_window7_224",
        SWIN,
        mlps("timm_model.layers.{}.blocks.{}.mlp", [1, 2]),
    ),
    entry("convnext_conv", "convnext_atto", CONVNEXT, convnext(kind="Conv2d"), "1x1 convolutions"),
    entry("convnext", "convnext_tiny", CONVNEXT, convnext()),
    entry("convnextv2_conv", "convnextv2_atto", CONVNEXT, convnext(kind="Conv2d", **GRN), "1x1 convolutions"),
    entry("convnextv2", "convnextv2_tiny", CONVNEXT, convnext(**GRN)),
    entry("beit", "beit_base_patch16_224", VIT, mlps(BLOCKS, 2)),
    entry("eva02", "eva02_tiny_patch14_224", VIT, mlps(BLOCKS, 2, packed=True)),
    entry(
        "eva02_norm",
        "eva02_base_patch14_224",
        VIT,
        mlps(BLOCKS, 2, "fc1_g fc1_x", between="norm", mixes=True),
        "LayerNorm between the product and fc2",
    ),
    entry("dinov2", "vit_small_patch14_dinov2", VIT, mlps(BLOCKS, 2)),
    entry(
        "dinov2_swiglu",
        "vit_giant_patch14_dinov2",
        {**VIT, "mlp_ratio": 4.0},
        mlps(BLOCKS, 2, packed=True),
    ),
    entry("dinov3", "vit_small_patch16_dinov3", VIT, mlps(BLOCKS, 2)),
    entry("dinov3_gated", "vit_huge_plus_patch16_dinov3", VIT, mlps(BLOCKS, 2, "fc1_g fc1_x")),
]
