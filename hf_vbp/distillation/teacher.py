"""The model that a student is trained against: checked, without gradients, and never part of the student."""

from typing import Any

import torch

from hf_vbp.data.labels import are_placeholders
from hf_vbp.distillation.tasks import problem_type
from hf_vbp.errors import ConfigurationError, LabelError, UnsupportedModelError
from hf_vbp.modeling.precision import own_precision
from hf_vbp.modeling.shared_copy import converted_copy

_SHOWN = 3


def check_teacher(student: Any, teacher: Any) -> None:
    """Refuse a teacher that the student cannot learn from.

    Args:
        student: The model that is trained.
        teacher: The model that it is trained against.

    Raises:
        UnsupportedModelError: The teacher has no classification head.
        LabelError: Its labels are not those of the student; the message holds the difference.
        ConfigurationError: It takes images of another shape, or shares weights with the student.
    """
    if not hasattr(teacher, "config") or not getattr(teacher.config, "id2label", None):
        raise UnsupportedModelError(f"{type(teacher).__name__} has no labels; the teacher must be a classifier.")
    if teacher is student or _storages(teacher) & _storages(student):
        raise ConfigurationError(
            "The teacher shares weights with the model that is trained, so it would change with it. Load it again, "
            "or prune a copy (inplace=False)."
        )
    problem, other = problem_type(student.config), problem_type(teacher.config)
    if problem != other:
        raise ConfigurationError(
            f"The problem type of the teacher is {other}, that of the model {problem}: set config.problem_type of "
            f"both to the type of their training."
        )
    _check_labels(student.config.id2label, teacher.config.id2label)
    for name in ("image_size", "num_channels"):
        expected, given = getattr(student.config, name, None), getattr(teacher.config, name, None)
        if expected is not None and given is not None and expected != given:
            way = ", or adapt its position embeddings (hf_vbp.interpolate_position_embeddings)"
            raise ConfigurationError(
                f"The teacher has {name} {given}, the model {expected}; both see the same images, so choose a teacher "
                f"with {name} {expected}{way if name == 'image_size' else ''}."
            )


def _storages(model: Any) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for parameter in model.parameters() if parameter.numel()}


def _check_labels(student: dict[int, str], teacher: dict[int, str]) -> None:
    if len(student) != len(teacher):
        raise LabelError(f"The teacher has {len(teacher)} labels, the model {len(student)}; choose one with the same.")
    different = [index for index in student if str(student[index]).casefold() != str(teacher.get(index)).casefold()]
    # The classes of a model may have been named when it was pruned; placeholders (LABEL_0) contradict no name.
    if different and not are_placeholders(teacher.values()):
        shown = ", ".join(
            f"{index} is {student[index]!r} in the model and {teacher.get(index)!r} in the teacher"
            for index in different[:_SHOWN]
        )
        raise LabelError(
            f"{len(different)} of {len(student)} labels of the teacher are not those of the model: {shown}"
            f"{', ...' if len(different) > _SHOWN else ''}. Choose a teacher with the same labels in the same order."
        )


class Teacher:
    """Computes the logits of a model in eval mode, without gradients, on the device of the images.

    The model is never registered as a part of the student, so it is neither trained nor saved nor wrapped for
    distributed training: every process holds a whole copy. The model is copied only where its dtype changes;
    otherwise the caller's model is moved to the device and set to eval mode, and its parameters are not changed.

    Args:
        model: A classifier.
        device: The device to compute on.
        dtype: ``"auto"`` or the name of a torch dtype; see
            :class:`~hf_vbp.distillation.DistillationArguments`.
    """

    def __init__(self, model: Any, *, device: torch.device, dtype: str = "auto") -> None:
        own = next(model.parameters()).dtype
        wanted = _auto_dtype(device, own) if dtype == "auto" else getattr(torch, dtype)
        self.dtype: torch.dtype = wanted
        with own_precision(model):
            self.model = (model if wanted == own else converted_copy(model, device, wanted)).to(device).eval()

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(batch, classes)`` float32 for images ``(batch, channels, height, width)``."""
        # Not inference_mode: the loss keeps these logits for its backward pass.
        with torch.no_grad(), own_precision(self.model):
            logits: torch.Tensor = self.model.eval()(pixel_values=pixel_values.to(self.dtype)).logits
        return logits.float()


def _auto_dtype(device: torch.device, own: torch.dtype) -> torch.dtype:
    # Many CPUs compute bfloat16 more slowly than float32, so it must be requested there.
    if own == torch.float32 and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return own
