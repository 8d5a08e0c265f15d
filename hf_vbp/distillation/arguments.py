"""The settings of a fine-tuning run: those of transformers, with the paper's recipe as defaults, and distillation."""

import copy
from dataclasses import dataclass, field
from typing import Any, Self

from transformers import TrainingArguments

from hf_vbp.distillation.losses import SOFT_LOSSES, DistillationLoss
from hf_vbp.errors import ConfigurationError

_SECRETS = ("hub_token", "push_to_hub_token")
TEACHER_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class DistillationArguments(TrainingArguments):  # type: ignore[misc]
    """``transformers.TrainingArguments`` for distillation.

    The defaults that differ from transformers' are the paper's recipe: AdamW, learning rate 1.5e-5 with a cosine
    schedule per step, weight decay 0.01, batch 32, 10 epochs.

    Pickles hold no token (``hub_token``): ``Trainer`` writes one to every checkpoint, as ``training_args.bin``.

    Attributes:
        hard_label_weight: Weight of the labels in the loss, in [0, 1]; the teacher has the rest.
        temperature: Divides both logits in the teacher's part of the loss.
        soft_loss: ``"kl"`` or ``"cross_entropy"``, see :class:`~hf_vbp.distillation.DistillationLoss`.
        teacher_dtype: The dtype of the teacher; ``"auto"`` is bfloat16 where the accelerator has it, and
            otherwise the dtype of its checkpoint.
        cache_teacher_logits: Whether to run the teacher over the training images once and keep its logits
            (images x classes x 4 bytes). Refused where the images are augmented at random.
        has_teacher: Set by :class:`~hf_vbp.distillation.DistillationTrainer`; None before.

    Raises:
        ConfigurationError: Invalid setting of the loss or the teacher.
    """

    learning_rate: float = field(default=1.5e-5, metadata={"help": "Peak learning rate (the paper's)."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW (the paper's)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule per step (the paper's)."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Images per device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images per device in evaluation."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the images (the paper's)."})
    label_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the labels in a batch; by default labels."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Keep False: otherwise labels and images that a transform needs are removed."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Keep False: a loss that is not finite stops the run at its step."}
    )
    hard_label_weight: float = field(default=0.5, metadata={"help": "Weight of the labels in the loss, 0 to 1."})
    temperature: float = field(default=2.0, metadata={"help": "Temperature of the teacher's part of the loss."})
    soft_loss: str = field(default="kl", metadata={"help": "kl or cross_entropy.", "choices": list(SOFT_LOSSES)})
    teacher_dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    cache_teacher_logits: bool = field(default=False, metadata={"help": "Run the teacher once over all images."})
    has_teacher: bool | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        _ = self.loss
        if self.teacher_dtype not in TEACHER_DTYPES:
            raise ConfigurationError(
                f"teacher_dtype is {self.teacher_dtype!r}; expected one of {', '.join(TEACHER_DTYPES)}."
            )
        if self.label_names is None:
            # Not derived from the model's signature: DeiT with two heads does not take labels.
            self.label_names = ["labels"]
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle, without tokens."""
        return {name: None if name in _SECRETS else value for name, value in vars(self).items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the tokens."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __copy__(self) -> Self:
        """Return a shallow copy with the tokens."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    @property
    def loss(self) -> DistillationLoss:
        """The loss of these settings."""
        return DistillationLoss(self.hard_label_weight, self.temperature, self.soft_loss, self.label_smoothing_factor)

    def distillation(self) -> dict[str, Any]:
        """Return the settings of the loss as JSON, for the results; empty where there is no teacher."""
        if self.has_teacher is False:
            return {}
        return {
            "hard_label_weight": self.hard_label_weight,
            "temperature": self.temperature,
            "soft_loss": self.soft_loss,
        }
