"""What a student is trained on: labels, and the outputs of a teacher. Pure tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from hf_vbp.errors import ConfigurationError

SOFT_LOSSES = ("kl", "cross_entropy")


@dataclass(frozen=True)
class Heads:
    """The logits of a model by what they are trained on; a model with one head has the same in all three.

    Attributes:
        labels: ``(batch, classes)``, trained on the labels (DeiT's class token).
        teacher: ``(batch, classes)``, trained on the teacher (DeiT's distillation token).
        final: ``(batch, classes)``, what the model predicts with (DeiT's mean of both).
    """

    labels: torch.Tensor
    teacher: torch.Tensor
    final: torch.Tensor

    @property
    def are_two(self) -> bool:
        """Whether labels and teacher have heads of their own."""
        return self.labels is not self.teacher


def read_heads(outputs: Mapping[str, torch.Tensor]) -> Heads:
    """Return the heads of a model's outputs, by name: in DeiT's, ``logits`` is the mean of the heads.

    Raises:
        ConfigurationError: The outputs hold no logits.
    """
    if "logits" not in outputs:
        raise ConfigurationError(
            f"The model gives {', '.join(outputs)} but no logits; train one with a classification head."
        )
    final = outputs["logits"]
    if "cls_logits" in outputs and "distillation_logits" in outputs:
        return Heads(outputs["cls_logits"], outputs["distillation_logits"], final)
    return Heads(final, final, final)


@dataclass(frozen=True)
class LossParts:
    """The two parts of a loss before they are weighted, scalars in float32; None where a part has no weight."""

    hard: torch.Tensor | None
    soft: torch.Tensor | None


@dataclass(frozen=True)
class DistillationLoss:
    """``w CE(student, labels) + (1 - w) T^2 D(teacher / T, student / T)``, means over the batch.

    The form, weights and temperature that the paper of Variance-Based Pruning trained with are not known
    (docs/finetuning.md); this is the usual form, with every choice open. The factor ``T^2`` keeps the gradients
    of both parts comparable when the temperature changes.

    Attributes:
        hard_label_weight: ``w`` in [0, 1].
        temperature: ``T`` > 0.
        soft_loss: ``D``: ``"kl"``, the divergence from the teacher, which is 0 where they agree; or
            ``"cross_entropy"``, which is larger by the entropy of the teacher and has the same gradient.
        label_smoothing: Smoothing of the labels, in [0, 1).
    """

    hard_label_weight: float = 0.5
    temperature: float = 2.0
    soft_loss: str = "kl"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hard_label_weight <= 1:
            raise ConfigurationError(f"hard_label_weight is {self.hard_label_weight}; expected 0 to 1.")
        if not self.temperature > 0:
            raise ConfigurationError(f"temperature is {self.temperature}; expected a number above 0.")
        if self.soft_loss not in SOFT_LOSSES:
            raise ConfigurationError(f"soft_loss is {self.soft_loss!r}; expected one of {', '.join(SOFT_LOSSES)}.")

    def parts(self, heads: Heads, teacher: torch.Tensor | None, labels: torch.Tensor | None) -> LossParts:
        """Return both parts, unweighted.

        Args:
            heads: Logits of the student.
            teacher: Logits of the teacher ``(batch, classes)``; None trains on the labels alone.
            labels: ``(batch,)`` int64; None trains on the teacher alone.

        Raises:
            ConfigurationError: There are no labels, but they have a weight or there is no teacher.
        """
        weight = self.hard_label_weight if teacher is not None else 1.0
        if weight > 0 and labels is None:
            raise ConfigurationError(
                "The batches have no labels, which hard_label_weight asks for. Give labelled images, or a teacher "
                "and hard_label_weight=0."
            )
        hard = None if labels is None or weight == 0 else self._hard(heads, labels, alone=teacher is None)
        soft = None if teacher is None or weight == 1 else self._soft(heads.teacher, teacher)
        return LossParts(hard, soft)

    def total(self, parts: LossParts) -> torch.Tensor:
        """Return the weighted sum of the parts."""
        if parts.soft is None and parts.hard is not None:
            return parts.hard
        if parts.hard is None and parts.soft is not None:
            return parts.soft
        if parts.hard is None or parts.soft is None:
            raise ConfigurationError("There is neither a teacher nor a label to train on.")
        return self.hard_label_weight * parts.hard + (1 - self.hard_label_weight) * parts.soft

    def _hard(self, heads: Heads, labels: torch.Tensor, *, alone: bool) -> torch.Tensor:
        loss = self._cross_entropy(heads.labels, labels)
        if alone and heads.are_two:
            # Without a teacher the second head would get no gradient, though it counts in the prediction.
            return (loss + self._cross_entropy(heads.teacher, labels)) / 2
        return loss

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def _soft(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        log_student = functional.log_softmax(student.float() / self.temperature, dim=-1)
        log_teacher = functional.log_softmax(teacher.float() / self.temperature, dim=-1)
        if self.soft_loss == "kl":
            loss = functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
        else:
            loss = -(log_teacher.exp() * log_student).sum(dim=-1).mean()
        return loss * self.temperature**2
