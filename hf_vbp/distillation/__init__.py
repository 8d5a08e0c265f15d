"""Train a pruned model against the dense model."""

from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.checkpoints import last_checkpoint
from hf_vbp.distillation.losses import DistillationLoss
from hf_vbp.distillation.teacher import check_teacher
from hf_vbp.distillation.trainer import DistillationTrainer

__all__ = ["DistillationArguments", "DistillationLoss", "DistillationTrainer", "check_teacher", "last_checkpoint"]
