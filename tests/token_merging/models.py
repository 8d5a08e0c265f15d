"""A tiny random model of each class whose tokens can be merged: 17 patches or fewer, three blocks."""

from typing import Any

import torch
import transformers

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
RATIO = {name: value for name, value in VIT.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
TEXT = {name: VIT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
LABELS = {"num_labels": 5}
TOWERS = {"vision_config": VIT, "text_config": {**TEXT, "vocab_size": 30, "max_position_embeddings": 8}}

# Class to its config, the options of the config, and the number of leading tokens.
CLASSES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViTForImageClassification": ("ViTConfig", {**VIT, **LABELS}, 1),
    "DeiTForImageClassification": ("DeiTConfig", {**VIT, **LABELS}, 2),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", {**VIT, **LABELS}, 2),
    "ViTMSNForImageClassification": ("ViTMSNConfig", {**VIT, **LABELS}, 1),
    "Dinov2ForImageClassification": ("Dinov2Config", {**RATIO, **LABELS}, 1),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        {**RATIO, **LABELS, "num_register_tokens": 3},
        4,
    ),
    "IJepaForImageClassification": ("IJepaConfig", {**VIT, **LABELS}, 0),
    "CLIPForImageClassification": ("CLIPConfig", {**TOWERS, **LABELS}, 1),
    "CLIPModel": ("CLIPConfig", TOWERS, 1),
    "CLIPVisionModel": ("CLIPVisionConfig", VIT, 1),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", VIT, 1),
    "SiglipForImageClassification": ("SiglipConfig", {**TOWERS, **LABELS}, 0),
    "SiglipModel": ("SiglipConfig", TOWERS, 0),
    "SiglipVisionModel": ("SiglipVisionConfig", VIT, 0),
}


def make(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model of a class, in evaluation mode, with weights that make the tokens differ."""
    config, options, _ = CLASSES[name]
    torch.manual_seed(seed)
    model = getattr(transformers, name)(getattr(transformers, config)(**{**options, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def inputs_of(model: Any, images: int = 3, seed: int = 1, size: int = 32) -> dict[str, torch.Tensor]:
    """Random images, and token ids for models with a text tower."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"pixel_values": torch.randn(images, 3, size, size, generator=generator)}
    if type(model).__name__ in ("CLIPModel", "SiglipModel"):
        inputs["input_ids"] = torch.randint(0, 30, (images, 8), generator=generator)
    return inputs


def result(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """The output that users of the class read: logits, embeddings or the pooled output."""
    with torch.no_grad():
        output = model(**inputs, **options)
    names = ("logits", "image_embeds", "pooler_output")
    return next(output[name] for name in names if output.get(name) is not None)
