"""Transformers of videos and of spectrograms."""

from typing import Any

import torch

from .batches import joined, values
from .family import Family, mlps, of
from .sizes import DENSE, LABELS, VIT, without

VIDEO: dict[str, Any] = {**VIT, "num_frames": 4}
VIVIT: dict[str, Any] = {**without(VIDEO, "patch_size"), "tubelet_size": [2, 8, 8]}
VJEPA2: dict[str, Any] = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 4,
    "hidden_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "mlp_ratio": 2.0,
    "num_pooler_layers": 1,
    "pred_hidden_size": 48,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_mlp_ratio": 2.0,
}
AST: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "max_length": 32,
    "num_mel_bins": 16,
}
CLIP = values(4, 3, 32, 32)
PREDICTOR = "predictor of the pre-training task"


def every_third_token(n: int, seed: int = 0, start: int = 0) -> dict[str, Any]:
    """The mask of VideoMAE, of as many tokens in each video: 2 tubelets of 4 x 4 patches."""
    return {"bool_masked_pos": (torch.arange(32) % 3 == 0).expand(n, -1)}


def classifier(name: str, config: str, options: dict[str, Any], pattern: str, *dense: str, **more: Any) -> Family:
    """A classifier of five classes."""
    sites = mlps(pattern, 2, *dense)
    return Family(name, of(name, config, **options, **LABELS), CLIP, "logits", "logits", sites, **more)


FAMILIES = [
    classifier("VideoMAEForVideoClassification", "VideoMAEConfig", VIDEO, "videomae.encoder.layer.{}", *DENSE),
    Family(
        "VideoMAEModel",
        of("VideoMAEModel", "VideoMAEConfig", **VIDEO),
        CLIP,
        "tokens",
        "last_hidden_state",
        mlps("encoder.layer.{}", 2, *DENSE),
    ),
    Family(
        "VideoMAEForPreTraining",
        of(
            "VideoMAEForPreTraining",
            "VideoMAEConfig",
            **VIDEO,
            decoder_hidden_size=16,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=24,
        ),
        joined(CLIP, every_third_token),
        "regression",
        "logits",
        mlps("videomae.encoder.layer.{}", 2, *DENSE),
        "every second token is masked where the batch has no `bool_masked_pos`",
        excluded={"decoder": "decoder of the pre-training task"},
    ),
    classifier("VivitForVideoClassification", "VivitConfig", VIVIT, "vivit.layers.{}.mlp"),
    classifier(
        "TimesformerForVideoClassification", "TimesformerConfig", VIDEO, "timesformer.encoder.layer.{}", *DENSE
    ),
    Family(
        "VJEPA2ForVideoClassification",
        of("VJEPA2ForVideoClassification", "VJEPA2Config", **VJEPA2, **LABELS),
        values(4, 3, 32, 32, key="pixel_values_videos"),
        "logits",
        "logits",
        mlps("vjepa2.encoder.layer.{}.mlp", 2),
        "the classifier does not run the predictor",
        excluded={"vjepa2.predictor": PREDICTOR, "pooler": "pooling head"},
    ),
    Family(
        "VJEPA2Model",
        of("VJEPA2Model", "VJEPA2Config", **VJEPA2),
        values(4, 3, 32, 32, key="pixel_values_videos"),
        "tokens",
        "last_hidden_state",
        mlps("encoder.layer.{}.mlp", 2),
        excluded={"predictor": PREDICTOR},
    ),
    Family(
        "ASTForAudioClassification",
        of("ASTForAudioClassification", "ASTConfig", **AST, **LABELS),
        values(32, 16, key="input_values"),
        "logits",
        "logits",
        mlps("audio_spectrogram_transformer.layers.{}.mlp", 2),
    ),
    Family(
        "ASTModel",
        of("ASTModel", "ASTConfig", **AST),
        values(32, 16, key="input_values"),
        "pooled",
        "pooler_output",
        mlps("layers.{}.mlp", 2),
    ),
]
