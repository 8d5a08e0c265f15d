"""Monocular depth."""

from typing import Any

from .batches import images
from .family import Family, Site, mlps, nested, of
from .sizes import DENSE, DENSE_12, VIT

DEEPER = {**VIT, "num_hidden_layers": 4}
DINO: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 28,
    "patch_size": 7,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
}
NECK: dict[str, Any] = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
ZOE: dict[str, Any] = {
    **NECK,
    "num_relative_features": 8,
    "bottleneck_features": 8,
    "bin_embedding_dim": 8,
    "num_attractors": [4, 2, 2, 1],
    "bin_configurations": [{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "nyu"}],
}
BEIT: dict[str, Any] = {
    **DEEPER,
    "out_indices": [1, 2, 3, 4],
    "reshape_hidden_states": False,
    "use_relative_position_bias": True,
}
GLPN: dict[str, Any] = {
    "num_encoder_blocks": 4,
    "depths": [1, 1, 1, 1],
    "sr_ratios": [2, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "decoder_hidden_size": 8,
}


def depth(
    name: str, config_name: str, sites: tuple[Site, ...], size: int, excluded: Any = None, **options: Any
) -> Family:
    """A depth estimator."""
    build = of(name.partition("-")[0], config_name, **options)
    return Family(name, build, images(size), "depth", "predicted_depth", sites, excluded=excluded or {})


FAMILIES = [
    depth(
        "DPTForDepthEstimation",
        "DPTConfig",
        mlps("dpt.encoder.layer.{}", 4, *DENSE),
        32,
        **DEEPER,
        **NECK,
        backbone_out_indices=[0, 1, 2, 3],
    ),
    depth(
        "DPTForDepthEstimation-dinov2",
        "DPTConfig",
        mlps("backbone.encoder.layer.{}.mlp", 4),
        28,
        **NECK,
        image_size=28,
        backbone_config=nested("Dinov2Config", **DINO),
    ),
    Family(
        "DPTForSemanticSegmentation",
        of(
            "DPTForSemanticSegmentation",
            "DPTConfig",
            **DEEPER,
            **NECK,
            backbone_out_indices=[0, 1, 2, 3],
            num_labels=5,
        ),
        images(),
        "pixel_classes",
        "logits",
        mlps("dpt.encoder.layer.{}", 4, *DENSE),
    ),
    depth(
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        mlps("backbone.encoder.layer.{}.mlp", 4),
        28,
        **NECK,
        backbone_config=nested("Dinov2Config", **DINO),
        patch_size=7,
        reassemble_hidden_size=16,
        head_hidden_size=8,
    ),
    depth(
        "ZoeDepthForDepthEstimation",
        "ZoeDepthConfig",
        mlps("backbone.beit.layers.{}.mlp", 4),
        32,
        {"metric_head": "head"},
        **ZOE,
        backbone_config=nested("BeitConfig", **BEIT),
    ),
    depth(
        "GLPNForDepthEstimation",
        "GLPNConfig",
        mlps("glpn.encoder.block.{}.{}.mlp", [1, 1, 1, 1], *DENSE_12, between="dwconv.dwconv"),
        64,
        **GLPN,
    ),
]
