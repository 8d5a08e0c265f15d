"""The tensors of a model's output by name, however the output is given."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hf_vbp.errors import UnsupportedModelError

# The first tensor of a tuple, by a part of the name of the model's class. Earlier rows win.
_FIRST_OF_TUPLE = (
    ("Backbone", ("feature_maps",)),
    ("ForDepthEstimation", ("predicted_depth",)),
    ("ForPoseEstimation", ("heatmaps",)),
    ("ForMaskedImageModeling", ("reconstruction",)),
    ("ForSemanticSegmentation", ("logits",)),
    ("Classification", ("logits",)),
    ("ModelWithProjection", ("image_embeds",)),
    ("Model", ("last_hidden_state", "pooler_output")),
)


def named_outputs(output: Any, model_class_name: str) -> dict[str, Any]:
    """Return the tensors of a model's output, and tuples of tensors, by name.

    A plain tuple has no names; its first tensor is named after the task of the model's class, and a tensor
    ``(images, dim)`` that follows the last hidden state of a bare model is its pooled feature.

    Args:
        output: A ``ModelOutput`` or another mapping, a tensor, or a tuple (``return_dict=False``).
        model_class_name: The name of the model's class.

    Raises:
        UnsupportedModelError: A tuple of a model whose task is not known by its class.
    """
    if isinstance(output, Mapping):
        return {name: value for name, value in output.items() if name != "loss" and _is_output(value)}
    values = [output] if isinstance(output, Tensor) else list(output)
    # A loss of a pass with labels precedes the outputs.
    values = [value for value in values if not (isinstance(value, Tensor) and value.dim() == 0)]
    names = next((names for part, names in _FIRST_OF_TUPLE if part in model_class_name), None)
    if names is None or not values or not _is_output(values[0]):
        raise UnsupportedModelError(
            f"{model_class_name} returned a tuple, whose tensors have no names: call it with return_dict=True."
        )
    named = {names[0]: values[0]}
    if len(names) > 1 and len(values) > 1 and isinstance(values[1], Tensor) and values[1].dim() == 2:
        named[names[1]] = values[1]
    return named


def describe(named: Mapping[str, Any]) -> str:
    """Return names and shapes of outputs for a message.

    Args:
        named: As from :func:`named_outputs`.
    """
    shapes = (
        f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name} ({len(value)} tensors)"
        for name, value in named.items()
    )
    return ", ".join(shapes) or "no tensors"


def _is_output(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(each, Tensor) for each in value)
