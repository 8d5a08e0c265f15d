"""The loss of a student against labels and the outputs of a teacher. Pure tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hf_vbp.distillation.tasks import ProblemType, hard_losses, soft_losses
from hf_vbp.errors import ConfigurationError

SOFT_LOSSES = ("kl", "cross_entropy")
Share = float | torch.Tensor


@dataclass(frozen=True)
class Heads:
    """The logits of a model by the target of their training; a model with one head has the same in all three.

    Attributes:
        labels: ``(batch, classes)``, trained on the labels (DeiT's class token).
        teacher: ``(batch, classes)``, trained on the teacher (DeiT's distillation token).
        final: ``(batch, classes)``, the prediction of the model (DeiT's mean of both).
    """

    labels: torch.Tensor
    teacher: torch.Tensor
    final: torch.Tensor

    @property
    def are_two(self) -> bool:
        """Whether labels and teacher have separate heads."""
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
    """The two parts of a loss before weighting, scalars in float32; None where a part has no weight."""

    hard: torch.Tensor | None
    soft: torch.Tensor | None


@dataclass(frozen=True)
class DistillationLoss:
    """``w CE(student, labels) + (1 - w) T^2 D(teacher / T, student / T)``, means over the batch.

    The paper of Variance-Based Pruning does not give the form, weights and temperature of its loss
    (docs/finetuning.md); this is the usual form, with every choice configurable. The factor ``T^2`` keeps the
    gradients of both parts comparable when the temperature changes. For other problem types than one label per image
    see :mod:`hf_vbp.distillation.tasks`.

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

    def parts(
        self,
        heads: Heads,
        teacher: torch.Tensor | None,
        labels: torch.Tensor | None,
        problem: ProblemType = "single_label_classification",
    ) -> LossParts:
        """Return both parts, unweighted.

        Args:
            heads: Logits of the student.
            teacher: Logits of the teacher ``(batch, classes)``; None trains on the labels alone.
            labels: ``(batch,)`` int64, for other problem types ``(batch, outputs)``; images with the label -100 do not
                count. None trains on the teacher alone.
            problem: The problem type of the model, see :mod:`hf_vbp.distillation.tasks`.

        Raises:
            ConfigurationError: There are no labels, but they have a weight or there is no teacher.
        """
        weight = self.hard_label_weight if teacher is not None else 1.0
        if weight > 0 and labels is None:
            raise ConfigurationError(
                "The batches have no labels, which hard_label_weight needs. Use labelled images, or a teacher "
                "and hard_label_weight=0."
            )
        hard = soft = None
        if labels is not None and weight > 0:
            hard = self._hard(heads, labels, problem, alone=teacher is None)
        if teacher is not None and weight < 1:
            soft = soft_losses(heads.teacher, teacher, problem, self.temperature, self.soft_loss).mean()
        return LossParts(hard, soft)

    def total(self, parts: LossParts, hard_share: Share = 1.0, soft_share: Share = 1.0) -> torch.Tensor:
        """Return the weighted sum of the parts.

        Args:
            parts: Means over a micro-batch.
            hard_share: The weight of its labelled images, relative to the mean of the micro-batches of the step.
            soft_share: The weight of all its images, likewise.

        Raises:
            ConfigurationError: There is neither part.
        """
        if parts.hard is not None and parts.soft is not None:
            weight = self.hard_label_weight
            return weight * parts.hard * hard_share + (1 - weight) * parts.soft * soft_share
        if parts.hard is not None:
            return parts.hard * hard_share
        if parts.soft is not None:
            return parts.soft * soft_share
        raise ConfigurationError("There is neither a teacher nor a label to train on.")

    def _hard(self, heads: Heads, labels: torch.Tensor, problem: ProblemType, *, alone: bool) -> torch.Tensor:
        loss = self._mean(heads.labels, labels, problem)
        if alone and heads.are_two:
            # Without a teacher the second head would get no gradient, though it counts in the prediction.
            return (loss + self._mean(heads.teacher, labels, problem)) / 2
        return loss

    def _mean(self, logits: torch.Tensor, labels: torch.Tensor, problem: ProblemType) -> torch.Tensor:
        losses, counts = hard_losses(logits, labels, problem, self.label_smoothing)
        # 0, with a gradient of 0, where no label of the micro-batch is known.
        return losses.sum() / counts.sum().clamp_min(torch.finfo(torch.float32).tiny)
