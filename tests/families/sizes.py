"""Sizes and names that several groups of the zoo share."""

from typing import Any

LABELS: dict[str, Any] = {"num_labels": 5}
VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 48,
    "eos_token_id": 49,
}

# The names of up and down, relative to the parent.
DENSE = ("intermediate.dense", "output.dense")
DENSE_12 = ("dense1", "dense2")
GATED = ("gate_proj up_proj", "down_proj")


def without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options without some."""
    return {name: value for name, value in options.items() if name not in names}


VIT_WITH_RATIO: dict[str, Any] = {**without(VIT, "intermediate_size"), "mlp_ratio": 2}
