"""Vision towers of vision-language models: alone, and inside the whole model."""

from typing import Any

import torch

from .batches import drawn, images, joined, numbers, stacked
from .family import Batch, Family, mlps, nested, of
from .sizes import GATED, VIT

TEXT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 57,
}
QWEN2: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": 16,
    "mlp_ratio": 2,
    "num_heads": 2,
    "patch_size": 4,
}
QWEN2_5: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
QWEN3: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
QWEN_TOKENS: dict[str, Any] = {
    "image_token_id": 50,
    "video_token_id": 51,
    "vision_start_token_id": 52,
    "vision_end_token_id": 53,
}
QWEN_TEXT: dict[str, Any] = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}
TROCR: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 16,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 16,
    "is_decoder": True,
    "add_cross_attention": True,
}
GIT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
CONNECTOR = "connector to the language model"
LANGUAGE = "language model"
# Height and width in patches; merged by two, so both are even.
GRIDS = ((4, 4), (2, 6), (6, 4))


def patches(n: int, seed: int, start: int, grids: tuple[tuple[int, int], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The patches of all images, one below the other, and the grid ``(1, height, width)`` of each image."""
    chosen = [grids[item % len(grids)] for item in range(start, start + n)]
    rows = [drawn((height * width, 3 * 2 * 4 * 4), start + i, seed) for i, (height, width) in enumerate(chosen)]
    return torch.cat(rows), torch.tensor([[1, height, width] for height, width in chosen])


def packed(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The inputs of a tower of Qwen2-VL: images of several sizes, without an axis of images."""
    rows, grid = patches(n, seed, start, GRIDS)
    return {"hidden_states": rows, "grid_thw": grid}


def merged(batch: dict[str, Any]) -> list[int]:
    """How many merged patches each image of ``packed`` has."""
    return (batch["grid_thw"].prod(dim=1) // 4).tolist()


def prompt(image_tokens: int, image_token: int = 50) -> Batch:
    """A prompt of eight tokens for each image, and in it the places of the image's tokens."""

    def batch(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
        ids = torch.full((n, 8 + image_tokens), image_token)
        for row in range(n):
            words = numbers(50, 8, item=start + row, seed=seed)
            ids[row, :2], ids[row, 2 + image_tokens :] = words[:2], words[2:]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return batch


def qwen_inputs(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The inputs of a whole Qwen2-VL: 4 x 4 patches are 4 tokens."""
    rows, grid = patches(n, seed, start, GRIDS[:1])
    text = prompt(4)(n, seed, start)
    return {
        **text,
        "pixel_values": rows,
        "image_grid_thw": grid,
        "mm_token_type_ids": (text["input_ids"] == 50).int(),
    }


def patch_masked(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """Images of several sizes, padded to 32 pixels, with the mask of their patches."""
    pixels, masks = stacked((3, 32, 32), n, seed, start), torch.zeros(n, 4, 4, dtype=torch.bool)
    for row in range(n):
        height, width = 4 - (start + row) % 2, 4 - (start + row) % 3
        masks[row, :height, :width] = True
        pixels[row, :, 8 * height :] = 0
        pixels[row, :, :, 8 * width :] = 0
    return {"pixel_values": pixels, "patch_attention_mask": masks}


def started(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The start of the text that a decoder generates from an image."""
    return {"decoder_input_ids": torch.stack([numbers(50, 4, item=start + i, seed=seed) for i in range(n)])}


def described(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The start of the text that GIT generates behind the tokens of an image."""
    ids = torch.stack([numbers(50, 4, item=start + i, seed=seed) for i in range(n)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def one_image_each(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The inputs of Idefics3: an axis of the images of a prompt, and the mask of their pixels."""
    return {
        "pixel_values": stacked((1, 3, 32, 32), n, seed, start),
        "pixel_attention_mask": torch.ones(n, 1, 32, 32, dtype=torch.bool),
    }


TOWERS = [
    Family(
        "Qwen2VisionTransformerPretrainedModel",
        of("qwen2_vl.modeling_qwen2_vl.Qwen2VisionTransformerPretrainedModel", "Qwen2VLVisionConfig", **QWEN2),
        packed,
        "tokens",
        "pooler_output",
        mlps("blocks.{}.mlp", 2),
        "packed patches: the first axis does not count images",
        excluded={"merger": CONNECTOR},
        lengths=merged,
    ),
    Family(
        "Qwen2_5_VisionTransformerPretrainedModel",
        of("Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLVisionConfig", **QWEN2_5),
        packed,
        "tokens",
        "pooler_output",
        mlps("blocks.{}.mlp", 2, *GATED),
        "packed patches: the first axis does not count images",
        excluded={"merger": CONNECTOR},
        lengths=merged,
    ),
    Family(
        "Qwen3VLVisionModel",
        of("Qwen3VLVisionModel", "Qwen3VLVisionConfig", **QWEN3),
        packed,
        "tokens",
        "pooler_output",
        mlps("blocks.{}.mlp", 2, "linear_fc1", "linear_fc2"),
        "packed patches: the first axis does not count images",
        excluded={"merger": CONNECTOR, "deepstack_merger_list": CONNECTOR},
        lengths=merged,
    ),
    Family(
        "Idefics3VisionTransformer",
        of("Idefics3VisionTransformer", "Idefics3VisionConfig", **VIT),
        patch_masked,
        "tokens",
        "last_hidden_state",
        mlps("encoder.layers.{}.mlp", 2),
        "padded patches must not count",
    ),
    Family(
        "Aimv2VisionModel",
        of("Aimv2VisionModel", "Aimv2VisionConfig", **VIT),
        images(),
        "pooled",
        "pooler_output",
        mlps("encoder.layers.{}.ffn", 2, *GATED, bias=False),
    ),
    Family(
        "InternVLVisionModel",
        of("InternVLVisionModel", "InternVLVisionConfig", **{**VIT, "image_size": [32, 32], "patch_size": [8, 8]}),
        images(),
        "tokens",
        "last_hidden_state",
        mlps("encoder.layer.{}.mlp", 2),
    ),
]

WHOLE = [
    Family(
        "LlavaForConditionalGeneration",
        of(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            vision_config=nested("CLIPVisionConfig", **VIT),
            text_config=nested("LlamaConfig", **TEXT),
            image_token_index=50,
        ),
        joined(images(), prompt(16)),
        "queries",
        "logits",
        (
            *mlps("model.vision_tower.encoder.layers.0.mlp"),
            *mlps("model.vision_tower.encoder.layers.1.mlp", used=False),
        ),
        "reads the last block but one, so the last MLP is not used",
        excluded={"model.multi_modal_projector": CONNECTOR, "model.language_model": LANGUAGE},
    ),
    Family(
        "Qwen2VLForConditionalGeneration",
        of(
            "Qwen2VLForConditionalGeneration",
            "Qwen2VLConfig",
            vision_config=nested("Qwen2VLVisionConfig", **QWEN2),
            text_config=nested("Qwen2VLTextConfig", **QWEN_TEXT),
            **QWEN_TOKENS,
        ),
        qwen_inputs,
        "queries",
        "logits",
        mlps("model.visual.blocks.{}.mlp", 2),
        excluded={"model.visual.merger": CONNECTOR, "model.language_model": LANGUAGE},
    ),
    Family(
        "Qwen2_5_VLForConditionalGeneration",
        of(
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen2_5_VLConfig",
            vision_config=nested("Qwen2_5_VLVisionConfig", **QWEN2_5),
            text_config=nested("Qwen2_5_VLTextConfig", **QWEN_TEXT),
            **QWEN_TOKENS,
        ),
        qwen_inputs,
        "queries",
        "logits",
        mlps("model.visual.blocks.{}.mlp", 2, *GATED),
        excluded={"model.visual.merger": CONNECTOR, "model.language_model": LANGUAGE},
    ),
    Family(
        "Idefics3ForConditionalGeneration",
        of(
            "Idefics3ForConditionalGeneration",
            "Idefics3Config",
            vision_config=nested("Idefics3VisionConfig", **VIT),
            text_config=nested("LlamaConfig", **TEXT),
            image_token_id=50,
        ),
        joined(one_image_each, prompt(4)),
        "queries",
        "logits",
        mlps("model.vision_model.encoder.layers.{}.mlp", 2),
        excluded={"model.connector": CONNECTOR, "model.text_model": LANGUAGE},
    ),
    Family(
        "Qwen3VLForConditionalGeneration",
        of(
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLConfig",
            vision_config=nested("Qwen3VLVisionConfig", **QWEN3),
            text_config=nested("Qwen3VLTextConfig", **QWEN_TEXT, head_dim=8),
            **QWEN_TOKENS,
        ),
        qwen_inputs,
        "queries",
        "logits",
        mlps("model.visual.blocks.{}.mlp", 2, "linear_fc1", "linear_fc2"),
        excluded={
            "model.visual.merger": CONNECTOR,
            "model.visual.deepstack_merger_list": CONNECTOR,
            "model.language_model": LANGUAGE,
        },
    ),
    Family(
        "VisionEncoderDecoderModel",
        of(
            "VisionEncoderDecoderModel",
            "VisionEncoderDecoderConfig",
            encoder=lambda: nested("ViTConfig", **VIT)().to_dict(),
            decoder=lambda: nested("TrOCRConfig", **TROCR)().to_dict(),
        ),
        joined(images(), started),
        "queries",
        "logits",
        mlps("encoder.layers.{}.mlp", 2),
        excluded={"decoder": LANGUAGE},
    ),
    Family(
        "GitForCausalLM",
        of("GitForCausalLM", "GitConfig", vision_config=VIT, **GIT),
        joined(images(), described),
        "queries",
        "logits",
        mlps("git.image_encoder.vision_model.encoder.layers.{}.mlp", 2),
        excluded={"git.encoder": LANGUAGE},
    ),
]

FAMILIES = [*TOWERS, *WHOLE]
