"""The real processors of the zoo, made small, and the pipelines of transformers that use them.

Processors that need torchvision are made where it is installed (``make test-vision``).
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from .family import Family

TORCHVISION = find_spec("torchvision") is not None
SQUARE = ("size", "crop_size", "pad_size")
# The model type names the processor, except for towers and for types that transformers does not list.
TYPES = {
    "clip_vision_model": "clip",
    "metaclip_2_vision_model": "clip",
    "siglip_vision_model": "siglip",
    "siglip2_vision_model": "siglip2",
    "sam_vision_model": "sam",
    "sam2_hiera_det_model": "sam2",
    "sam2_vision_model": "sam2",
    "dinov2_with_registers": "dinov2",
    "dinov3_convnext": "dinov3_vit",
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "imagegpt": {
        "size": {"height": 4, "width": 4},
        "clusters": np.random.default_rng(0).uniform(-1, 1, (8, 3)).tolist(),
    },
    "siglip2": {"patch_size": 8, "max_num_patches": 16},
    "eomt": {"size": {"shortest_edge": 32, "longest_edge": 32}, "do_pad": True},
    "sam": {"size": {"longest_edge": 32}, "pad_size": {"height": 32, "width": 32}},
}
VIDEOS = {"videomae": "VideoMAE", "vivit": "Vivit", "timesformer": "VideoMAE", "vjepa2": "VJEPA2"}
FRAMES = 4
AUDIO = "audio-spectrogram-transformer"
FROM_TENSORS = {
    "Idefics3VisionTransformer",
    "InternVLVisionModel",
    "LwDetrViTBackbone",
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen3VLVisionModel",
    "VitDetBackbone",
}
"""Towers and backbones whose processor belongs to the model around them: tested from tensors only."""
NEEDS_TORCHVISION = {
    "DINOv3ConvNextModel",
    "DINOv3ViTBackbone",
    "DINOv3ViTModel",
    "Sam2HieraDetModel",
    "Sam2Model",
    "Sam2VisionModel",
    "TimmWrapperForImageClassification",
    "VJEPA2ForVideoClassification",
    "VJEPA2Model",
    "VivitForVideoClassification",
    "ZoeDepthForDepthEstimation",
}
"""Classes whose processor needs torchvision."""
TASKS = {
    "IMAGE_CLASSIFICATION": "image-classification",
    "OBJECT_DETECTION": "object-detection",
    "IMAGE_SEGMENTATION": "image-segmentation",
    "SEMANTIC_SEGMENTATION": "image-segmentation",
    "UNIVERSAL_SEGMENTATION": "image-segmentation",
    "DEPTH_ESTIMATION": "depth-estimation",
    "ZERO_SHOT_OBJECT_DETECTION": "zero-shot-object-detection",
    "ZERO_SHOT_IMAGE_CLASSIFICATION": "zero-shot-image-classification",
    "AUDIO_CLASSIFICATION": "audio-classification",
}
"""The auto classes whose pipelines take one image, by a part of the name of their table in transformers."""
NO_PIPELINE = {
    "PvtForImageClassification": "its config names no labels",
    "SiglipModel": "the pipeline pads texts to 64 tokens, and the tiny model takes 8",
    "Siglip2Model": "the pipeline pads texts to 64 tokens, and the tiny model takes 8",
    "ViTMAEModel": "masks at random",
}


def image(seed: int = 0) -> Any:
    """A photograph of noise, of a size that no model takes as it is."""
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def video(seed: int = 0) -> list[Any]:
    """The frames of a video."""
    return [np.array(image(FRAMES * seed + frame)) for frame in range(FRAMES)]


def sound(seed: int = 0) -> np.ndarray:
    """A second of noise."""
    return np.random.default_rng(seed).standard_normal(16_000).astype(np.float32)


def processor_of(family: Family, model: Any) -> Any | None:
    """The processor of a model, of its size; None where it has none, or where torchvision is missing for it."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    kind = model.config.model_type
    if family.class_name in FROM_TENSORS or (family.class_name in NEEDS_TORCHVISION and not TORCHVISION):
        return None
    if kind == AUDIO:
        return transformers.ASTFeatureExtractor(max_length=32, num_mel_bins=16)
    if kind == "timm_wrapper":
        return transformers.TimmWrapperImageProcessor(timm_config(model))
    if kind in VIDEOS:
        name = f"{VIDEOS[kind]}{'Video' if kind == 'vjepa2' else 'Image'}Processor"
        pil = f"{name}Pil"
    else:
        names = IMAGE_PROCESSOR_MAPPING_NAMES.get(TYPES.get(kind, kind)) or {}
        name, pil = names.get("torchvision"), names.get("pil")
    made = getattr(transformers, name if TORCHVISION else pil)
    side = side_of(family)
    options = dict(OPTIONS.get(TYPES.get(kind, kind), {}))
    if not options and side:
        plain = made()
        sizes = {key: getattr(plain, key, None) for key in SQUARE}
        options = {key: dict.fromkeys(dict(value), side) for key, value in sizes.items() if value is not None}
    return made(**options)


def side_of(family: Family) -> int | None:
    """The side of the images of a family."""
    batch = family.batch(1)
    pixels = batch.get("pixel_values", batch.get("pixel_values_videos"))
    return int(pixels.shape[-1]) if pixels is not None and pixels.dim() >= 4 else None


def timm_config(model: Any) -> dict[str, Any]:
    """The ``pretrained_cfg`` of a model of timm, with its own size."""
    return {**model.timm_model.pretrained_cfg, "input_size": (3, 32, 32), "fixed_input_size": True}


def batch_of(family: Family, model: Any, processor: Any, items: int = 2) -> dict[str, Any]:
    """A batch that the processor makes."""
    kind = model.config.model_type
    if kind in VIDEOS:
        videos = [video(seed) for seed in range(items)]
        return dict(processor(videos, return_tensors="pt"))
    if kind == AUDIO:
        sounds = [sound(seed) for seed in range(items)]
        return dict(processor(sounds, sampling_rate=16_000, return_tensors="pt"))
    images = [image(seed) for seed in range(items)]
    if kind == "vitpose":
        boxes = [[[0.0, 0.0, 40.0, 30.0]]] * items
        return dict(processor(images, boxes=boxes, return_tensors="pt"))
    made = dict(processor(images, return_tensors="pt"))
    # Prompts, texts and queries do not come from the image processor.
    return {**{key: value for key, value in family.batch(items).items() if key not in made}, **made}


def task_of(family: Family, model: Any) -> str | None:
    """The pipeline of a class that takes one image; None where there is none."""
    from transformers.models.auto import modeling_auto

    kind, name = model.config.model_type, family.class_name
    if name in NO_PIPELINE or kind in VIDEOS:
        return None
    for part, task in TASKS.items():
        found = getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES").get(kind, ())
        if name in ([found] if isinstance(found, str) else found):
            return task
    is_base = modeling_auto.MODEL_MAPPING_NAMES.get(kind) == name
    return "image-feature-extraction" if is_base and images_only(family) else None


def images_only(family: Family) -> bool:
    """Whether a class takes images and nothing else."""
    return "pixel_values" in family.batch(1) and not {"input_ids", "input_points"} & family.batch(1).keys()


def arguments_of(task: str) -> dict[str, Any]:
    """The arguments of a pipeline in addition to the image."""
    labels = {"candidate_labels": ["cat", "dog"]} if task.startswith("zero-shot") else {}
    template = {"hypothesis_template": "a {}"} if task == "zero-shot-image-classification" else {}
    return {**labels, **template}


def parts_of(task: str, processor: Any) -> dict[str, Any]:
    """The parts of a pipeline in addition to the model."""
    if task == "audio-classification":
        return {"feature_extractor": processor}
    return {"image_processor": processor, **({"tokenizer": tokenizer()} if task.startswith("zero-shot") else {})}


def tokenizer() -> Any:
    """A tokenizer of the vocabulary of the zoo."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<unk>": 1, "a": 2, "photo": 3, "of": 4, "cat": 5, "dog": 6, "<s>": 48, "</s>": 49}
    words.update({f"word{index}": index for index in range(7, 48)})
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 48), ("</s>", 49)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
