"""All entries of the zoo."""

from importlib import import_module

from .family import Family

GROUPS = (
    "vit",
    "hierarchical",
    "convolutional",
    "language_image",
    "video_audio",
    "detection",
    "segmentation",
    "depth",
    "towers",
    "timm",
)
FAMILIES: list[Family] = [
    family for group in GROUPS for family in import_module(f"{__package__}.zoo_{group}").FAMILIES
]
