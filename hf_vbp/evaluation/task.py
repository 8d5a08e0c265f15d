"""What the output of a model is, and which labels it can be compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_vbp.errors import LabelError, UnsupportedModelError
from hf_vbp.evaluation.outputs import is_dual_encoder, mask_of, output_of, packed_distance
from hf_vbp.inputs.example import example_batch
from hf_vbp.modeling.precision import eval_mode, own_precision
from hf_vbp.output_distance import OutputDistance, OutputKind, detect_kind

Labels = Literal["class", "several", "numbers", "features", "none"]
"""What labels mean: one class, several labels, numbers, a class for neighbors or prompts, or nothing."""

_EXPECTED = {
    "class": "one class id for each image, (images,) int64",
    "several": "0 or 1 for each label, (images, labels)",
    "numbers": "the numbers of each image, (images, numbers)",
    "features": "one class id for each image, (images,) int64",
}


@dataclass(frozen=True)
class Task:
    """The output of a model.

    Attributes:
        labels: What labels of the images mean.
        distance: How far outputs are from each other; None where the kind of output is not known.
        name: Name of the model's class.
        unknown: Why the kind of output is not known.
    """

    labels: Labels
    distance: OutputDistance | None
    name: str
    unknown: str = ""

    @property
    def kinds(self) -> str:
        """The tensors of the output and their kinds, for messages."""
        if self.distance is None:
            return "an output of unknown kind"
        return ", ".join(f"{part.name} ({part.kind.value})" for part in self.distance.parts)

    def values(self, output: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return the only tensor of an output that counts.

        Args:
            output: The output of a model.
            inputs: The inputs that it was made from, which may have masks of tokens.

        Raises:
            UnsupportedModelError: Several tensors count, or none is known.
        """
        if self.distance is None or len(self.distance.parts) != 1:
            raise UnsupportedModelError(
                f"{self.name} gives {self.kinds}; expected one tensor: measure it by a metric."
            )
        (part,) = self.distance.parts
        mask = mask_of(part, output, inputs)
        return self.distance.values(output, {} if mask is None else {part.name: mask})[part.name]

    def check_labels(self, labels: Any, images: int) -> None:
        """Refuse labels of another form than the output needs.

        Args:
            labels: The labels of a batch.
            images: Number of images in the batch.

        Raises:
            LabelError: Their dtype or shape is another, or the output has nothing to compare them with.
        """
        if self.labels == "none":
            raise LabelError(
                f"The batches have labels, but {self.name} gives {self.kinds}, which labels of images cannot be "
                "compared with: pass a metric (Measures(metrics=[TaskMetric(...)])), or batches without labels."
            )
        if not isinstance(labels, Tensor) or not self._fits(labels, images):
            form = (
                f"{labels.dtype} of shape {tuple(labels.shape)}"
                if isinstance(labels, Tensor)
                else type(labels).__name__
            )
            raise LabelError(f"The labels of a batch are {form}; expected {_EXPECTED[self.labels]}.")

    def _fits(self, labels: Tensor, images: int) -> bool:
        if self.labels in ("class", "features"):
            return labels.shape == (images,) and not labels.is_floating_point()
        if self.labels == "several":
            return labels.ndim == 2 and len(labels) == images and bool(((labels == 0) | (labels == 1)).all())
        return labels.ndim in (1, 2) and len(labels) == images


def task_of(model: nn.Module, output: Any) -> Task:
    """Return what the output of a model is.

    Args:
        model: A vision model of transformers.
        output: Its output, as of :func:`hf_vbp.evaluation.outputs.output_of`.
    """
    name = type(model).__name__
    try:
        if isinstance(output, Mapping) and "mask_of_tokens" in output:
            return Task("none", packed_distance(output, name), name)
        distance = detect_kind(output, getattr(model, "config", None), name)
    except UnsupportedModelError as error:
        return Task("none", None, name, str(error))
    return Task(_labels_of(distance, output), distance, name)


def _labels_of(distance: OutputDistance, output: Any) -> Labels:
    if len(distance.parts) > 1:
        return "none"
    (part,) = distance.parts
    if part.kind in (OutputKind.FEATURES, OutputKind.EMBEDDINGS):
        return "features" if distance.values(output)[part.name].dim() == 2 else "none"
    if distance.values(output)[part.name].dim() != 2:
        return "none"
    kinds: dict[OutputKind, Labels] = {
        OutputKind.LOGITS: "class",
        OutputKind.MULTI_LABEL: "several",
        OutputKind.REGRESSION: "numbers",
    }
    return kinds.get(part.kind, "none")


def example_task(model: nn.Module) -> Task | None:
    """Return what the output of a model is, from one image made from its configs; None where none can be made.

    Args:
        model: A vision model of transformers; it runs once in eval mode.

    Raises:
        ConfigurationError: Its config contradicts itself.
    """
    try:
        batch = example_batch(model)
    except UnsupportedModelError:
        return None
    if is_dual_encoder(model):
        batch = {key: value for key, value in batch.items() if key != "input_ids"}
    with own_precision(model), eval_mode(model), torch.no_grad():
        output, _ = output_of(model, batch)
    return task_of(model, output)
