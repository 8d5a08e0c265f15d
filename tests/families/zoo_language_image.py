"""Towers of language-image models: alone, with their projection, as classifiers, and in the dual model."""

from typing import Any

import torch

from .batches import drawn, images, joined, numbers
from .family import Batch, Build, Family, mlps, nested, of
from .sizes import TEXT, VIT, without

# Images come as patches of all aspect ratios, so there is no image size.
FLEXIBLE: dict[str, Any] = {**without(VIT, "image_size"), "num_patches": 16}
TEXT_TOWER = {"text_model": "text tower"}
POOLING = "pooling head: it sees one token per image"
UNUSED = "pooling head, which the classifier does not use"
GRIDS = ((4, 4), (3, 5), (2, 6), (5, 2))


def texts(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """Token ids of ``n`` texts of 4 to 8 tokens, padded to 8."""
    ids, masks = [], []
    for item in range(start, start + n):
        length = 4 + item % 5
        row, mask = torch.full((8,), 1), torch.zeros(8, dtype=torch.long)
        row[:length] = 2 + numbers(46, length, item=item, seed=seed)
        row[length - 1] = 49
        mask[:length] = 1
        ids.append(row)
        masks.append(mask)
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(masks)}


def flexible(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """Patches of images of several aspect ratios, padded to 16, with mask and grid."""
    patches, masks, grids = [], [], []
    for item in range(start, start + n):
        height, width = GRIDS[item % len(GRIDS)]
        row, mask = torch.zeros(16, 3 * 8 * 8), torch.zeros(16, dtype=torch.int32)
        row[: height * width] = drawn((height * width, 3 * 8 * 8), item, seed)
        mask[: height * width] = 1
        patches.append(row)
        masks.append(mask)
        grids.append(torch.tensor([height, width]))
    return {
        "pixel_values": torch.stack(patches),
        "pixel_attention_mask": torch.stack(masks),
        "spatial_shapes": torch.stack(grids),
    }


def dual(name: str, prefix: str, vision: dict[str, Any], **options: Any) -> Build:
    """A class whose config holds both towers."""
    return of(
        name,
        f"{prefix}Config",
        vision_config=nested(f"{prefix}VisionConfig", **vision),
        text_config=nested(f"{prefix}TextConfig", **TEXT, **options.pop("text", {})),
        **options,
    )


def clip(prefix: str) -> list[Family]:
    """The four classes with a vision tower of CLIP or MetaCLIP2."""
    sites = mlps("vision_model.encoder.layers.{}.mlp", 2)
    projection = {"projection_dim": 8}
    tower = of(f"{prefix}VisionModel", f"{prefix}VisionConfig", **VIT)
    projected = of(f"{prefix}VisionModelWithProjection", f"{prefix}VisionConfig", **VIT, **projection)
    both = dual(f"{prefix}Model", prefix, VIT, **projection)
    labelled = dual(f"{prefix}ForImageClassification", prefix, VIT, num_labels=5)
    return [
        Family(f"{prefix}ForImageClassification", labelled, images(), "logits", "logits", sites),
        Family(f"{prefix}VisionModel", tower, images(), "pooled", "pooler_output", mlps("encoder.layers.{}.mlp", 2)),
        Family(f"{prefix}VisionModelWithProjection", projected, images(), "embeddings", "image_embeds", sites),
        Family(
            f"{prefix}Model",
            both,
            joined(images(), texts),
            "embeddings",
            "image_embeds",
            sites,
            "the logits of an image depend on the texts of the batch; its embedding does not",
            excluded=TEXT_TOWER,
        ),
    ]


def siglip(prefix: str, vision: dict[str, Any], batch: Batch, notes: str = "") -> list[Family]:
    """The three classes with a vision tower of SigLIP."""
    sites = mlps("vision_model.encoder.layers.{}.mlp", 2)
    tower = of(f"{prefix}VisionModel", f"{prefix}VisionConfig", **vision)
    both = dual(f"{prefix}Model", prefix, vision, text={"projection_size": 16})
    labelled = dual(f"{prefix}ForImageClassification", prefix, vision, num_labels=5)
    head = "vision_model.head.mlp"
    return [
        Family(
            f"{prefix}ForImageClassification",
            labelled,
            batch,
            "logits",
            "logits",
            sites,
            notes,
            excluded={head: UNUSED},
        ),
        Family(
            f"{prefix}VisionModel",
            tower,
            batch,
            "pooled",
            "pooler_output",
            mlps("encoder.layers.{}.mlp", 2),
            notes,
            excluded={"head.mlp": POOLING},
        ),
        Family(
            f"{prefix}Model",
            both,
            joined(batch, texts),
            "embeddings",
            "image_embeds",
            sites,
            notes,
            excluded={**TEXT_TOWER, head: POOLING},
        ),
    ]


FAMILIES = [
    *clip("CLIP"),
    *clip("MetaClip2"),
    *siglip("Siglip", VIT, images()),
    *siglip("Siglip2", FLEXIBLE, flexible, "patches with a mask; padded patches must not count"),
]
