"""Run a model on a batch, with one row of its output for each image."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp.errors import UnsupportedModelError
from hf_vbp.inputs.batch import count_images, forward_names, model_inputs, patches_by_image
from hf_vbp.inputs.fit import images_of
from hf_vbp.output_distance import OutputDistance, OutputKind, OutputPart

_TOKEN_MASKS = ("pixel_attention_mask", "patch_attention_mask", "padding_mask", "attention_mask")
_PACKED = ("pooler_output", "last_hidden_state")


def is_dual_encoder(model: nn.Module) -> bool:
    """Return whether a model has a tower for images and one for texts, as CLIP and SigLIP."""
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


@torch.no_grad()
def output_of(model: Any, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the output of a model for a batch, and the inputs that it was called with.

    A dual encoder whose batch has no texts gives the embeddings of the images.

    Args:
        model: A vision model of transformers.
        batch: What its processor made.

    Raises:
        DataError: None of the entries is an input of the model, or the images have another size.
        UnsupportedModelError: The output has no dimension of images.
    """
    if is_dual_encoder(model) and "input_ids" in forward_names(model) and batch.get("input_ids") is None:
        takes = signature(model.get_image_features).parameters
        inputs = {key: value for key, value in model_inputs(model, batch).items() if key in takes}
        with images_of(model, inputs):
            return {"image_embeds": embeddings(model.get_image_features(**inputs))}, inputs
    inputs = model_inputs(model, batch)
    with images_of(model, inputs):
        output = model(**inputs)
    if patches_by_image(inputs) is not None:
        output = _unpacked(output, inputs, type(model).__name__)
    if not isinstance(output, Mapping | Tensor | tuple | list):
        output = vars(output)
    return output, inputs


def embeddings(output: Any) -> Tensor:
    """Return the embeddings ``(n, dim)`` of a tower; transformers 5 returns them in an output object."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


def packed_distance(output: Any, class_name: str) -> OutputDistance:
    """Return the distance of features of packed patches, which :func:`output_of` sorted by image.

    Args:
        output: The output, as of :func:`output_of`.
        class_name: Name of the model's class.
    """
    name = next(name for name in _PACKED if name in output)
    return OutputDistance((OutputPart(name, OutputKind.TOKENS, name),), class_name)


def mask_of(part: OutputPart, output: Any, inputs: Mapping[str, Any]) -> Tensor | None:
    """Return which tokens of an output count, ``(images, tokens)`` bool; None where all do.

    Args:
        part: The tensor of the output.
        output: The output, as of :func:`output_of`.
        inputs: The inputs that it was made from.
    """
    counts_tokens = part.reading == "mean_of_tokens" or part.kind in (OutputKind.TOKENS, OutputKind.LOGITS)
    tensor = output.get(part.key) if isinstance(output, Mapping) else None
    if not counts_tokens or not isinstance(tensor, Tensor) or tensor.dim() != 3:
        return None
    if isinstance(output.get("mask_of_tokens"), Tensor):
        return output["mask_of_tokens"]  # type: ignore[no-any-return]
    for key in _TOKEN_MASKS:
        mask = inputs.get(key)
        if isinstance(mask, Tensor) and mask.dim() > 1 and mask.flatten(1).shape == tensor.shape[:2]:
            return mask.flatten(1).bool()
    return None


def _unpacked(output: Any, inputs: Mapping[str, Any], class_name: str) -> Any:
    """Return features of packed patches as ``(images, tokens, dim)``, padded, with the mask of the tokens."""
    patches, images = patches_by_image(inputs) or [], count_images(inputs)
    named = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    if any(len(value) == images and name == "logits" for name, value in named.items()):
        return output
    for name in _PACKED:
        tensor = named.get(name)
        if tensor is None or tensor.dim() != 2 or len(tensor) == 0 or sum(patches) % len(tensor):
            continue
        merged = sum(patches) // len(tensor)
        if all(count % merged == 0 for count in patches):
            lengths = [count // merged for count in patches]
            padded = torch.nn.utils.rnn.pad_sequence(list(torch.split(tensor, lengths)), batch_first=True)
            places, counts = (torch.arange(padded.shape[1]), torch.tensor(lengths)[:, None])
            mask = (places < counts).to(tensor.device)
            return {name: padded, "mask_of_tokens": mask}
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
    raise UnsupportedModelError(
        f"{class_name} takes packed patches of {images} images and returned {shapes or 'no tensors'}: its output "
        "cannot be sorted by image. Evaluate the whole model that it belongs to."
    )
