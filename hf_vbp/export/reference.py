"""The answers of the PyTorch model, with which those of an exported file are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_vbp._progress import Progress
from hf_vbp.calibration.batch_moments import full_precision
from hf_vbp.errors import DataError, UnsupportedModelError
from hf_vbp.evaluation.task import Task, task_of
from hf_vbp.export.inputs import flattened, nested, task_outputs
from hf_vbp.inputs.batch import count_images, model_inputs, take_images
from hf_vbp.inputs.mixed_batch import each_batch
from hf_vbp.modeling.precision import eval_mode, own_precision
from hf_vbp.output_distance import OutputKind

# An answer without classes is the same where its squared error is at most this share of its squared values.
SAME = 0.05
_SIGNS = (OutputKind.MULTI_LABEL, OutputKind.MASKS)


@dataclass(frozen=True)
class Reference:
    """Images, and the outputs of the PyTorch model for them.

    Attributes:
        inputs: The inputs of the model by name, one row for each image.
        outputs: Its outputs of floating-point numbers by name, float32.
        task: What the output is.
        source: Where the images come from.
        labels: Their classes, where they are known and the model has classes.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    task: Task
    source: str
    labels: Tensor | None = None

    @property
    def images(self) -> int:
        """The number of images."""
        return len(next(iter(self.inputs.values())))

    @property
    def decides(self) -> bool:
        """Whether the model gives one answer for each image, rather than numbers or an answer for each position."""
        return self.task.labels == "class"

    @property
    def classifies(self) -> bool:
        """Whether the outputs are logits of images, whose differences need no unit."""
        return self.task.labels in ("class", "several")

    def part(self, start: int, stop: int) -> "Reference":
        """Return the part with the images ``start`` to ``stop - 1``."""
        return replace(
            self,
            inputs={name: value[start:stop] for name, value in self.inputs.items()},
            outputs={name: value[start:stop] for name, value in self.outputs.items()},
            labels=None if self.labels is None else self.labels[start:stop],
        )

    def named(self, names: Iterable[str]) -> "Reference":
        """Return the reference with some of its outputs."""
        return replace(self, outputs={name: self.outputs[name] for name in names if name in self.outputs})

    def difference(self, outputs: Mapping[str, Tensor]) -> float:
        """Return the largest absolute difference of outputs; NaN where one is NaN."""
        return float(self._gaps(outputs).amax())

    def scaled_difference(self, outputs: Mapping[str, Tensor]) -> float:
        """Return the largest difference, of each output in units of its largest value where that exceeds 1."""
        sizes = [value.double().abs().amax() for value in self._same_images(outputs).values()]
        return float((self._gaps(outputs) / torch.stack(sizes).clamp_min(1.0)).amax())

    def _gaps(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the largest absolute difference of each output."""
        pairs = ((outputs[name], value) for name, value in self._same_images(outputs).items())
        return torch.stack([(actual.double() - expected.double()).abs().amax() for actual, expected in pairs])

    def error(self, outputs: Mapping[str, Tensor]) -> float:
        """Return the squared error of outputs as a share of their squared values, mean over images and tensors."""
        expected = self._same_images(outputs)
        shares = [_error_share(outputs[name], value) for name, value in expected.items()]
        return float(torch.stack(shares).mean())

    def agreement(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return for each image whether its answer is the same, or the share of its positions where it is.

        Args:
            outputs: Outputs by name for the first images.
        """
        expected, actual = self._same_images(outputs), dict(outputs)
        if self.task.distance is None:
            return torch.stack([_is_close(actual[name], value) for name, value in expected.items()]).amin(0)
        before, after = (self.task.distance.values(nested(values)) for values in (expected, actual))
        shares = []
        for part in self.task.distance.parts:
            first, second = before[part.name], after[part.name]
            if part.kind in (OutputKind.LOGITS, OutputKind.PIXEL_CLASSES):
                axis = 1 if part.kind is OutputKind.PIXEL_CLASSES else -1
                same = first.argmax(axis) == second.argmax(axis)
                shares.append(same.flatten(1).double().mean(1) if same.dim() > 1 else same.double())
            elif part.kind in _SIGNS:
                shares.append(((first > 0) == (second > 0)).flatten(1).double().mean(1))
            else:
                shares.append(_is_close(second, first))
        return torch.stack(shares).amin(0)

    def hits(self, outputs: Mapping[str, Tensor]) -> Tensor | None:
        """Return which images are classified correctly; None without labels."""
        if self.labels is None or self.task.labels != "class":
            return None
        logits = self.task.values(nested(dict(outputs)), {})
        return logits.argmax(-1) == self.labels[: len(logits)]

    def _same_images(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = len(next(iter(outputs.values())))
        return {name: value[:images] for name, value in self.outputs.items()}


def _error_share(actual: Tensor, expected: Tensor) -> Tensor:
    before, gap = expected.double(), actual.double() - expected.double()
    energy = before.flatten(1).square().sum(1) if before.dim() > 1 else before.square()
    error = gap.flatten(1).square().sum(1) if gap.dim() > 1 else gap.square()
    return error / energy.clamp_min(1e-12)


def _is_close(actual: Tensor, expected: Tensor) -> Tensor:
    return (_error_share(actual, expected) <= SAME).double()


def reference_of(
    module: Any,
    batches: Iterable[Mapping[str, Any]],
    source: str,
    *,
    limit: int,
    progress: Progress | None = None,
) -> Reference:
    """Run the PyTorch model on images, and keep its inputs and outputs.

    Args:
        module: The module that is exported.
        batches: Batches that the processor of the model made, optionally with ``labels``.
        source: Where the images come from.
        limit: Use at most this many images.
        progress: Receives the number of finished images and of all.

    Raises:
        DataError: There are no images, or they have several sizes.
        UnsupportedModelError: The model gives NaN or infinity.
    """
    inputs: list[dict[str, Tensor]] = []
    outputs: list[dict[str, Tensor]] = []
    labels: list[Tensor] = []
    task: Task | None = None
    done = 0
    with torch.no_grad(), eval_mode(module), own_precision(module), full_precision(torch.device("cpu")):
        for batch in each_batch(batches):
            part = take_images(batch, 0, min(count_images(batch, module), limit - done), module)
            given = {k: v for k, v in model_inputs(module, part).items() if isinstance(v, Tensor)}
            output = module(**given)
            task = task or task_of(getattr(module, "model", module), output)
            inputs.append({name: value.cpu() for name, value in given.items()})
            outputs.append(_checked(flattened(output), module))
            if isinstance(part.get("labels"), Tensor):
                labels.append(part["labels"].cpu())
            done += count_images(part, module)
            if progress is not None:
                progress(done, limit)
            if done >= limit:
                break
    if task is None:
        raise DataError(f"{source} gives no images to compare an exported model on.")
    kept = task_outputs(list(outputs[0]))
    return Reference(
        _joined(inputs, source),
        _joined([{name: one[name] for name in kept if name in one} for one in outputs], source),
        task,
        source,
        torch.cat(labels) if len(labels) == len(inputs) and task.labels == "class" else None,
    )


def _checked(outputs: dict[str, Tensor], module: Any) -> dict[str, Tensor]:
    found = {name: value.float().cpu() for name, value in outputs.items() if value.is_floating_point()}
    if not found or not all(bool(torch.isfinite(value).all()) for value in found.values()):
        raise UnsupportedModelError(
            f"{type(module).__name__} gives {'NaN or infinity' if found else 'no tensor of numbers'}, so an exported "
            "file cannot be compared with it. Check its weights."
        )
    return found


def _joined(parts: list[dict[str, Tensor]], source: str) -> dict[str, Tensor]:
    shapes = {tuple(value.shape[1:] for value in part.values()) for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"The images of {source} have several sizes after the image processor, and an exported file takes one. "
            "Set a fixed height and width in preprocessor_config.json."
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
