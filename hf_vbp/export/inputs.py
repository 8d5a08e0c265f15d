"""The inputs and outputs of an exported model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_vbp.errors import UnsupportedModelError
from hf_vbp.evaluation.outputs import embeddings, is_dual_encoder
from hf_vbp.inputs.batch import count_images, forward_names, model_inputs, repeat_images, take_images
from hf_vbp.inputs.example import example_batch

BATCH = "batch_size"
# A graph traced with one image may hold for one image only.
_TRACED_IMAGES = 2
# Tensors inside the model, which are exported only where it gives nothing else.
_INNER = (
    "last_hidden_state",
    "hidden_states",
    "attentions",
    "encoder_",
    "decoder_",
    "vision_model_output",
    "auxiliary_",
    "intermediate_",
)


class ImageTower(nn.Module):
    """The image tower of a dual encoder: the embeddings of images, without texts.

    Args:
        model: The dual encoder.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return the embeddings of images.

        Args:
            pixel_values: The images ``(n, 3, h, w)``.
        """
        return {"image_embeds": embeddings(self.model.get_image_features(pixel_values=pixel_values))}


def exported_module(model: Any) -> Any:
    """Return the module that is exported: the model, or the image tower of a dual encoder."""
    return ImageTower(model).eval() if is_dual_encoder(model) and "input_ids" in forward_names(model) else model


def traced_inputs(module: nn.Module, batch: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Return the inputs with which a model is traced: two images.

    Args:
        module: As of :func:`exported_module`.
        batch: A batch of the user; by default one made from the configs.

    Raises:
        UnsupportedModelError: No batch can be made, or an input is not a tensor with one row for each image.
    """
    made = example_batch(module, _TRACED_IMAGES) if batch is None else batch
    if count_images(made, module) == 1:
        made = repeat_images(made, _TRACED_IMAGES)
    inputs = model_inputs(module, take_images(made, 0, _TRACED_IMAGES, module))
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != _TRACED_IMAGES:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise UnsupportedModelError(
                f"{type(module).__name__} takes {name}{shape}, which has no row for each image, so it cannot be "
                "exported with a batch of any size. Expected a model that takes images."
            )
    return inputs


def dynamic_shapes(inputs: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    """Return the shapes of the inputs for the tracer: any number of images of one size."""
    batch = torch.export.Dim(BATCH)
    return {name: {0: batch} for name in inputs}


def described_shapes(inputs: Mapping[str, Tensor]) -> dict[str, list[int | str]]:
    """Return the shape of each input, with a name for the number of images."""
    return {name: [BATCH, *value.shape[1:]] for name, value in inputs.items()}


def task_outputs(names: Sequence[str]) -> list[str]:
    """Return the outputs of the task, without tensors inside the model where there are others.

    Args:
        names: The names of all outputs, such as ``logits`` or ``hidden_states.3``.
    """
    kept = [name for name in names if not name.startswith(_INNER)]
    # The features of all tokens are an output of backbones next to the pooled one.
    features = [name for name in names if name in ("last_hidden_state", "pooler_output")]
    return features if not set(kept) - {"pooler_output"} and features else kept or list(names)


def flattened(output: Any) -> dict[str, Tensor]:
    """Return the tensors of an output by the names that the exporters give them."""
    found: dict[str, Tensor] = {}
    _collect(output, "", found)
    return found


def _collect(value: Any, name: str, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[name or "output"] = value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        _collect(item, f"{name}.{key}" if name else str(key), found)


def nested(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return outputs by name with those of one tuple, ``feature_maps.0`` and so on, in a list again."""
    grouped: dict[str, Any] = {}
    for name, tensor in tensors.items():
        head, _, index = name.partition(".")
        if index.isdigit():
            grouped.setdefault(head, []).append(tensor)
        else:
            grouped[name] = tensor
    return grouped
