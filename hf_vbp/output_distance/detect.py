"""Find the tensors of a model's output that count, and their kinds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.output_distance.distance import OutputDistance, OutputPart, Reading
from hf_vbp.output_distance.kinds import OutputKind
from hf_vbp.output_distance.naming import describe, named_outputs

# Detectors whose classes exclude each other, with one for "no object". The classes of all others each hold or not.
_SOFTMAX_DETECTORS = ("detr", "yolos", "table-transformer")
# Bare models without a pooled output, whose first token is a class token.
_CLASS_TOKEN_FIRST = (
    "vit",
    "deit",
    "beit",
    "data2vec-vision",
    "vit_msn",
    "vit_mae",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "clip_vision_model",
    "metaclip_2_vision_model",
    "altclip_vision_model",
    "chinese_clip_vision_model",
    "blip_vision_model",
    "vivit",
    "timesformer",
    "audio-spectrogram-transformer",
    "yolos",
    "pvt",
)
# Their output (images, patches, pixels) under the name of logits is a reconstruction.
_PIXEL_PREDICTORS = ("vit_mae", "videomae", "hiera")
_LANGUAGE_CLASSES = ("ForCausalLM", "ForConditionalGeneration", "LMHead", "VisionEncoderDecoder")
_IMAGE_TOKEN_CLASSES = ("ForCausalImageModeling", "ForMaskedImageModeling")


@dataclass(frozen=True)
class _Seen:
    """An output with what is known of its model."""

    named: dict[str, Any]
    config: Any
    class_name: str
    fixed_texts: bool

    def tensor(self, name: str) -> Tensor | None:
        value = self.named.get(name)
        return value if isinstance(value, Tensor) else None

    def setting(self, name: str) -> Any:
        return self.config.get(name) if isinstance(self.config, Mapping) else getattr(self.config, name, None)

    @property
    def model_type(self) -> str:
        return str(self.setting("model_type") or "")


def detect_kind(model_output: Any, config: Any, model_class_name: str, *, fixed_texts: bool = False) -> OutputDistance:
    """Return the distance for a model's output: which tensors count, and their kinds.

    Args:
        model_output: The output for any batch: a ``ModelOutput`` or another mapping, a tensor, or a tuple.
        config: The config of the model, or a dict of it.
        model_class_name: The name of the model's class.
        fixed_texts: For dual encoders: whether all batches have the same texts, as class names. Then
            ``logits_per_image`` counts. Otherwise the embedding of the image does, which does not depend on texts.

    Returns:
        The distance; where it has :attr:`~hf_vbp.output_distance.OutputDistance.without_bank` parts, features of
        calibration images must be set before use.

    Raises:
        UnsupportedModelError: No known output; names the outputs found.
        ConfigurationError: The ``problem_type`` of the config is unknown.

    Example:
        >>> import torch
        >>> from hf_vbp.output_distance import detect_kind
        >>> output = {"logits": torch.zeros(2, 10)}
        >>> detect_kind(output, {"num_labels": 10}, "ViTForImageClassification").parts[0].kind
        <OutputKind.LOGITS: 'logits'>
    """
    named = named_outputs(model_output, model_class_name)
    seen = _Seen(named, config, model_class_name, fixed_texts)
    for rule in _RULES:
        parts = rule(seen)
        if parts:
            return OutputDistance(tuple(parts), model_class_name)
    raise UnsupportedModelError(
        f"The kind of output of {model_class_name} is not known: it returned {describe(named)}. Give the output and "
        f"its kind yourself, one of {', '.join(kind.value for kind in OutputKind)}."
    )


def _part(name: str, kind: OutputKind, reading: Reading = "whole") -> OutputPart:
    return OutputPart(name, kind, name, reading=reading)


def _query_masks(seen: _Seen) -> list[OutputPart]:
    """Return the outputs of MaskFormer and its successors."""
    names = ("class_queries_logits", "masks_queries_logits")
    if any(seen.tensor(name) is None for name in names):
        return []
    return [_part(names[0], OutputKind.LOGITS), _part(names[1], OutputKind.MASKS)]


def _detector(seen: _Seen) -> list[OutputPart]:
    logits = seen.tensor("logits")
    if logits is None or seen.tensor("pred_boxes") is None:
        return []
    softmax = seen.model_type in _SOFTMAX_DETECTORS
    parts = [
        _part("logits", OutputKind.LOGITS if softmax else OutputKind.MULTI_LABEL),
        _part("pred_boxes", OutputKind.BOXES),
    ]
    return parts if seen.tensor("pred_masks") is None else [*parts, _part("pred_masks", OutputKind.MASKS)]


def _prompted_masks(seen: _Seen) -> list[OutputPart]:
    """Return the outputs of SAM with prompts."""
    if seen.tensor("pred_masks") is None:
        return []
    scores = [_part("iou_scores", OutputKind.HEAT_MAPS)] if seen.tensor("iou_scores") is not None else []
    return [_part("pred_masks", OutputKind.MASKS), *scores]


def _dual_encoder(seen: _Seen) -> list[OutputPart]:
    for logits, embeds in (("logits_per_image", "image_embeds"), ("logits_per_video", "video_embeds")):
        if seen.tensor(logits) is None:
            continue
        if seen.tensor(embeds) is not None and not seen.fixed_texts:
            return [_part(embeds, OutputKind.EMBEDDINGS)]
        sigmoid = seen.model_type.startswith("siglip")
        return [_part(logits, OutputKind.MULTI_LABEL if sigmoid else OutputKind.LOGITS)]
    return []


def _logits(seen: _Seen) -> list[OutputPart]:
    logits = seen.tensor("logits")
    if logits is None:
        return []
    if seen.setting("num_labels") == 0 and logits.dim() == 2:
        # Without a head, "logits" are the features below it.
        return [_part("logits", OutputKind.FEATURES)]
    kind = {2: _kind_of_labels, 3: _kind_of_sequence, 4: _kind_of_pixels}.get(logits.dim())
    found = None if kind is None else kind(seen, logits)
    return [] if found is None else [_part("logits", found)]


def _kind_of_labels(seen: _Seen, logits: Tensor) -> OutputKind:
    problem = seen.setting("problem_type")
    kinds = {
        None: OutputKind.REGRESSION if logits.shape[1] == 1 else OutputKind.LOGITS,
        "single_label_classification": OutputKind.LOGITS,
        "multi_label_classification": OutputKind.MULTI_LABEL,
        "regression": OutputKind.REGRESSION,
    }
    if problem not in kinds:
        known = ", ".join(str(each) for each in kinds if each)
        raise ConfigurationError(f"config.problem_type is {problem!r}; expected one of {known}.")
    if problem == "single_label_classification" and logits.shape[1] == 1:
        raise ConfigurationError(
            "config.problem_type is 'single_label_classification', but the model has one output, whose probability is "
            "always 1: set it to 'regression'."
        )
    return kinds[problem]


def _kind_of_sequence(seen: _Seen, logits: Tensor) -> OutputKind | None:
    if "conditional_embeddings" in seen.named:
        # CLIPSeg: one mask per image.
        return OutputKind.MASKS
    if "ForPreTraining" in seen.class_name and seen.model_type in _PIXEL_PREDICTORS:
        return OutputKind.REGRESSION
    if any(part in seen.class_name for part in (*_LANGUAGE_CLASSES, *_IMAGE_TOKEN_CLASSES)):
        return OutputKind.LOGITS
    return None


def _kind_of_pixels(seen: _Seen, logits: Tensor) -> OutputKind:
    # A softmax over one class is constant; such models are trained with a sigmoid.
    return OutputKind.MASKS if logits.shape[1] == 1 else OutputKind.PIXEL_CLASSES


def _named(name: str, kind: OutputKind) -> Callable[[_Seen], list[OutputPart]]:
    def rule(seen: _Seen) -> list[OutputPart]:
        return [] if seen.tensor(name) is None else [_part(name, kind)]

    return rule


def _maps(name: str) -> Callable[[_Seen], list[OutputPart]]:
    def rule(seen: _Seen) -> list[OutputPart]:
        maps = seen.named.get(name)
        if isinstance(maps, Tensor):
            return [_part(name, OutputKind.FEATURE_MAPS)]
        return [
            OutputPart(f"{name}.{index}", OutputKind.FEATURE_MAPS, name, index) for index in range(len(maps or ()))
        ]

    return rule


def _features(seen: _Seen) -> list[OutputPart]:
    """Return the pooled feature of a bare backbone, its class token, the mean of its tokens, or its feature map."""
    for name in ("pooler_output", "cls_token_value"):
        tensor = seen.tensor(name)
        if tensor is not None and (tensor.dim() == 2 or tensor[0].numel() in tensor.shape[1:]):
            return [_part(name, OutputKind.FEATURES, "whole" if tensor.dim() == 2 else "flat")]
    hidden = seen.tensor("last_hidden_state")
    if hidden is None or hidden.dim() not in (2, 3, 4):
        return []
    if hidden.dim() == 2:
        return [_part("last_hidden_state", OutputKind.FEATURES)]
    if hidden.dim() == 4:
        return [_part("last_hidden_state", OutputKind.FEATURE_MAPS)]
    first = seen.model_type in _CLASS_TOKEN_FIRST
    return [_part("last_hidden_state", OutputKind.FEATURES, "first_token" if first else "mean_of_tokens")]


# In this order, since outputs of detectors and dual encoders hold those of their towers too.
_RULES: tuple[Callable[[_Seen], list[OutputPart]], ...] = (
    _query_masks,
    _detector,
    _prompted_masks,
    _named("predicted_depth", OutputKind.DEPTH),
    _named("heatmaps", OutputKind.HEAT_MAPS),
    _named("reconstruction", OutputKind.HEAT_MAPS),
    _dual_encoder,
    _logits,
    _maps("feature_maps"),
    _maps("fpn_hidden_states"),
    _named("image_embeds", OutputKind.EMBEDDINGS),
    _named("image_features", OutputKind.EMBEDDINGS),
    _features,
)
