"""Zero-shot classification with a dual encoder: the class whose prompt is nearest to the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.evaluation.outputs import embeddings, is_dual_encoder

_PROMPTS_AT_ONCE = 256


@dataclass(frozen=True)
class ZeroShot:
    """The class names of labelled images, as prompts.

    Args:
        class_names: The names, in the order of the labels.
        tokenizer: The tokenizer of the model, or its processor.
        template: The prompt, with ``{}`` where the name of the class is put; or several, whose embeddings are
            averaged.
        tokenizer_options: Options of the tokenizer. By default prompts are padded to the longest, those of SigLIP to
            the length that it was trained with.

    Raises:
        ConfigurationError: There are fewer than two classes, or a template has no ``{}``.
    """

    class_names: Sequence[str]
    tokenizer: Any
    template: str | Sequence[str] = "a photo of a {}."
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.class_names, str) or len(self.class_names) < 2:
            raise ConfigurationError(
                f"class_names is {self.class_names!r}; expected a list of at least two names, in the order of the "
                "labels."
            )
        for template in self.templates:
            if not isinstance(template, str) or "{}" not in template:
                raise ConfigurationError(
                    f"The template {template!r} has no {{}} for the name of the class: write for instance 'a photo of "
                    "a {}.'."
                )
        if not self.templates or not callable(self.tokenizer):
            raise ConfigurationError(
                "ZeroShot needs at least one template and a tokenizer: pass that of the model, "
                "AutoTokenizer.from_pretrained(name)."
            )

    @property
    def templates(self) -> list[str]:
        """All templates."""
        return [self.template] if isinstance(self.template, str) else list(self.template)

    @torch.no_grad()
    def class_embeddings(self, model: Any) -> Tensor:
        """Return the direction of each class in the embedding space of a model.

        Args:
            model: A dual encoder in eval mode.

        Returns:
            ``(classes, dim)`` float32 on the CPU, of length 1.

        Raises:
            UnsupportedModelError: The model has no tower for texts.
        """
        check_dual_encoder(model)
        prompts = [template.format(name) for name in self.class_names for template in self.templates]
        pieces = []
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            tokens = self._tokens(prompts[start : start + _PROMPTS_AT_ONCE], model.config)
            inputs = {key: torch.as_tensor(value).to(model.device) for key, value in tokens.items()}
            pieces.append(embeddings(model.get_text_features(**inputs)).float().cpu())
        directions = normalize(torch.cat(pieces), dim=-1).reshape(len(self.class_names), len(self.templates), -1)
        return normalize(directions.mean(1), dim=-1)

    def _tokens(self, prompts: list[str], config: Any) -> Mapping[str, Any]:
        text = getattr(config, "text_config", None)
        length = getattr(text, "max_position_embeddings", None)
        padding: Any = "max_length" if str(config.model_type).startswith("siglip") else True
        options: dict[str, Any] = {"padding": padding, "return_tensors": "pt"}
        if length:
            options |= {"truncation": True, "max_length": length}
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        tokens = tokenizer(prompts, **{**options, **self.tokenizer_options})
        known = ("input_ids", "attention_mask", "token_type_ids")
        return {key: value for key, value in tokens.items() if key in known}


def check_dual_encoder(model: nn.Module) -> None:
    """Refuse a model that cannot compare images with texts.

    Raises:
        UnsupportedModelError: It has no tower for texts.
    """
    if not is_dual_encoder(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no towers for images and texts (get_image_features, get_text_features), "
            "which class-name prompts need: pass a dual encoder, as CLIPModel or SiglipModel."
        )


def nearest_prompts(images: Tensor, prompts: Tensor) -> Tensor:
    """Return the class of each image: that of the prompt with the highest cosine.

    Args:
        images: Embeddings ``(images, dim)``.
        prompts: Directions of the classes ``(classes, dim)``.

    Returns:
        ``(images,)`` int64 on the CPU.
    """
    # In float64, so that the result does not depend on the number of images in a batch.
    found: Tensor = (images.cpu().double() @ prompts.cpu().double().T).argmax(1)
    return found
