"""The losses of the problem types that transformers knows: one label, several labels or numbers for each image.

Each has a loss against the labels and a loss against the teacher, per image, so that images count the same however a
step is cut.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hf_vbp.errors import ConfigurationError, LabelError

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = ("single_label_classification", "multi_label_classification", "regression")
IGNORED = -100
"""The label of an image, or of one class of an image, that is not known; as in ``torch`` and ``transformers``."""


def problem_type(config: Any) -> ProblemType:
    """Return the problem type of a model.

    Where its config has none, transformers infers one from the labels of a batch. Here a single output means
    regression, as in transformers, and several outputs mean one label per image.

    Args:
        config: The config of the model.

    Raises:
        ConfigurationError: The type is unknown.
    """
    named = getattr(config, "problem_type", None)
    if named is None:
        return "regression" if getattr(config, "num_labels", None) == 1 else "single_label_classification"
    if named not in PROBLEM_TYPES:
        raise ConfigurationError(f"config.problem_type is {named!r}; expected one of {', '.join(PROBLEM_TYPES)}.")
    return named  # type: ignore[no-any-return]


def check_logits(logits: Tensor) -> None:
    """Refuse logits that are not one row for each image.

    Raises:
        ConfigurationError: Their shape is another.
    """
    if logits.ndim != 2:
        raise ConfigurationError(
            f"The model gives logits of the shape {tuple(logits.shape)}; expected (images, labels): train a model for "
            f"image classification or regression."
        )


def check_labels(labels: Tensor, logits: Tensor, problem: ProblemType, *, explicit: bool) -> Tensor:
    """Return labels in the shape and dtype of their loss.

    Args:
        labels: As in the batch.
        logits: ``(images, outputs)``.
        problem: The problem type.
        explicit: Whether the config names it. Only then may one label per image be given as probabilities
            ``(images, classes)``, which look like several labels.

    Raises:
        LabelError: The labels do not belong to this problem type.
    """
    images, outputs = logits.shape
    if problem == "single_label_classification":
        soft = labels.is_floating_point() and labels.shape == logits.shape
        if (soft and explicit) or (labels.shape == (images,) and not labels.is_floating_point()):
            return labels
        expected = "one class id for each image, (images,) int64"
    elif problem == "multi_label_classification":
        if labels.shape == logits.shape:
            return labels.float()
        expected = f"0 or 1 for each label, (images, {outputs})"
    else:
        if labels.numel() == logits.numel() and len(labels) == images:
            return labels.reshape(logits.shape).float()
        expected = f"{outputs} number(s) for each image, (images, {outputs})"
    hint = (
        ""
        if explicit
        else (
            ', or set config.problem_type ("multi_label_classification" for several labels per image, '
            '"single_label_classification" for class probabilities)'
        )
    )
    raise LabelError(
        f"The labels of a batch are {labels.dtype} of shape {tuple(labels.shape)}, but {problem} needs {expected}: "
        f"change the labels{hint}."
    )


def hard_losses(logits: Tensor, labels: Tensor, problem: ProblemType, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the loss against the labels of each image, and how much each image counts.

    Args:
        logits: ``(images, outputs)``.
        labels: As :func:`check_labels` returned them. :data:`IGNORED` ones do not count.
        problem: The problem type.
        smoothing: Smoothing of the labels, for one label per image.

    Returns:
        Losses ``(images,)`` float32, 0 where nothing is known, and counts ``(images,)`` float32: 1, for several labels
        the share of them that are known.
    """
    logits = logits.float()
    if problem == "single_label_classification":
        losses = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=smoothing, ignore_index=IGNORED
        )
        known = torch.ones_like(losses) if labels.is_floating_point() else (labels != IGNORED).float()
        return losses, known
    mask = (labels != IGNORED).float()
    targets = torch.where(mask > 0, labels, 0.0)
    if problem == "multi_label_classification":
        each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        # In a regression -100 is a value like any other.
        mask, each = torch.ones_like(labels), (logits - labels).square()
    return (each * mask).mean(dim=-1), mask.mean(dim=-1)


def soft_losses(student: Tensor, teacher: Tensor, problem: ProblemType, temperature: float, kind: str) -> Tensor:
    """Return the loss against the teacher of each image.

    Args:
        student: Logits ``(images, outputs)``.
        teacher: Logits of the teacher, likewise.
        problem: The problem type.
        temperature: Divides both logits; the loss is multiplied by its square. Not used in a regression.
        kind: ``"kl"`` or ``"cross_entropy"``. Not used in a regression, where it is the squared difference.

    Returns:
        Losses ``(images,)`` float32.
    """
    student, teacher = student.float(), teacher.float()
    if problem == "regression":
        return (student - teacher).square().mean(dim=-1)
    student, teacher = student / temperature, teacher / temperature
    if problem == "multi_label_classification":
        target = teacher.sigmoid()
        each = functional.binary_cross_entropy_with_logits(student, target, reduction="none")
        if kind == "kl":
            each = each - functional.binary_cross_entropy_with_logits(teacher, target, reduction="none")
        return each.mean(dim=-1) * temperature**2
    log_student, log_teacher = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    if kind == "kl":
        losses = functional.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(dim=-1)
    else:
        losses = -(log_teacher.exp() * log_student).sum(dim=-1)
    return losses * temperature**2
