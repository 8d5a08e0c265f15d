"""A ``transformers.Trainer`` that trains a student against its teacher, and restores every weight that it saved."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import find_executable_batch_size
from transformers import Trainer

from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.cached_logits import TEACHER_LOGITS, WithTeacherLogits, check_deterministic, compute_logits
from hf_vbp.distillation.callbacks import ShowEpoch
from hf_vbp.distillation.checkpoints import is_training_checkpoint, last_checkpoint
from hf_vbp.distillation.losses import Heads, LossParts, read_heads
from hf_vbp.distillation.metrics import accuracy
from hf_vbp.distillation.parts_log import PartsLog
from hf_vbp.distillation.sharding import check_launch
from hf_vbp.distillation.teacher import Teacher, check_teacher
from hf_vbp.errors import CheckpointError, ConfigurationError, NonFiniteError

_LABELS = "labels"


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """``Trainer`` with a teacher.

    Differences from ``Trainer``, besides the loss (:class:`~hf_vbp.distillation.DistillationLoss`):

    - every image has the same weight in a step, however it is cut into micro-batches and shared among processes;
    - best-model restore and resume restore every weight; ``Trainer`` of transformers 5 leaves the encoder of ViT
      and DeiT as it was (upstream issues 43701, 40187);
    - ``resume_from_checkpoint=True`` takes the newest checkpoint that is whole;
    - models with two heads (``DeiTForImageClassificationWithTeacher``) train both, and predict with their mean;
    - the parts of the loss are logged apart, as ``hard_loss`` and ``soft_loss``;
    - a loss that is not finite stops the run;
    - ``auto_find_batch_size`` halves the batch when memory runs out and keeps the images per step.

    Args:
        model: The student, for instance a pruned model.
        args: The settings.
        teacher: The model that the student is trained against, with the same labels; None trains on labels alone.
            It is put in eval mode on the device of the run and is otherwise left alone.
        **options: What else ``Trainer`` takes. ``compute_metrics`` is ``top1`` and ``top5`` by default.

    Raises:
        LabelError: Teacher and student have other labels.
        ConfigurationError: Student and teacher do not fit each other, or not the settings.

    Example:
        >>> from hf_vbp.distillation import DistillationArguments, DistillationTrainer
        >>> args = DistillationArguments("out", num_train_epochs=10)  # doctest: +SKIP
        >>> DistillationTrainer(pruned, args, teacher=dense, train_dataset=images).train()  # doctest: +SKIP
    """

    # The loss is a mean over the micro-batch; left to itself Trainer takes it for one over the whole step,
    # because vision heads accept any keyword, and the gradient is too large by the accumulation steps.
    loss_is_scaled_for_ga = False
    train_dataset: Any

    def __init__(self, model: Any, args: DistillationArguments, *, teacher: Any | None = None, **options: Any) -> None:
        if not isinstance(args, DistillationArguments):
            raise ConfigurationError(f"args is a {type(args).__name__}; expected DistillationArguments.")
        check_launch(args)
        if teacher is not None:
            check_teacher(model, teacher)
            _check_heads(model, args)
        elif args.cache_teacher_logits:
            raise ConfigurationError("cache_teacher_logits is set, but there is no teacher.")
        args.has_teacher = teacher is not None
        options.setdefault("compute_metrics", accuracy)
        super().__init__(model=model, args=args, **options)
        self.add_callback(ShowEpoch(self))
        self.distillation_loss = args.loss
        self.parts_log = PartsLog()
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(teacher, device=args.device, dtype=args.teacher_dtype)

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """Train, as ``Trainer.train`` does.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the newest whole one in ``args.output_dir``.
            **options: Passed on.

        Raises:
            CheckpointError: There is no whole checkpoint to resume from.
            NonFiniteError: The loss became NaN or infinite.
        """
        if resume_from_checkpoint is True:
            found = last_checkpoint(self.args.output_dir)
            if found is None:
                raise CheckpointError(f"{self.args.output_dir} holds no whole checkpoint to resume from.")
            resume_from_checkpoint = str(found)
        if self.args.cache_teacher_logits and not isinstance(self.train_dataset, WithTeacherLogits):
            self.train_dataset = self._with_logits(self.train_dataset)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one micro-batch, in evaluation the cross entropy with the labels.

        Args:
            model: The student, wrapped or not.
            inputs: ``pixel_values`` ``(batch, channels, height, width)`` and ``labels`` ``(batch,)``.
            return_outputs: Whether to return ``(loss, {"logits": ...})``.
            num_items_in_batch: Labelled images in the step, over all micro-batches and processes.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
        """
        inputs = dict(inputs)
        labels, cached = inputs.pop(_LABELS, None), inputs.pop(TEACHER_LOGITS, None)
        heads = read_heads(model(**inputs))
        if not model.training:
            loss = torch.nn.functional.cross_entropy(heads.final.float(), labels)
            return (loss, {"logits": heads.final}) if return_outputs else loss
        loss = self._training_loss(heads, self._teacher_logits(inputs, cached), labels, num_items_in_batch)
        return (loss, {"logits": heads.final}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, with the parts of the loss beside their weighted sum."""
        if "loss" in logs:
            logs |= self.parts_log.means(self.accelerator)
        super().log(logs, *args, **options)

    def _training_loss(
        self,
        heads: Heads,
        teacher: torch.Tensor | None,
        labels: torch.Tensor | None,
        num_items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        parts = self.distillation_loss.parts(heads, teacher, labels)
        loss = self.distillation_loss.total(parts)
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(parts)
        weight = self._weight(labels, num_items)
        self.parts_log.add(parts, weight, 1 / self.current_gradient_accumulation_steps)
        return loss * weight

    def _weight(self, labels: torch.Tensor | None, num_items: torch.Tensor | int | None) -> float | torch.Tensor:
        """Return what a mean over this micro-batch counts, relative to the mean of the micro-batches of the step."""
        if labels is None or num_items is None or self.args.n_gpu > 1:
            return 1.0
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        weight: torch.Tensor | float = (
            labels.numel() * self.current_gradient_accumulation_steps * processes / num_items
        )
        return weight

    def _teacher_logits(self, inputs: Mapping[str, Any], cached: torch.Tensor | None) -> torch.Tensor | None:
        if cached is not None or self._teacher is None:
            return cached
        if self.distillation_loss.hard_label_weight == 1:
            return None
        return self._teacher(inputs["pixel_values"])

    def _with_logits(self, dataset: Any) -> WithTeacherLogits:
        if self._teacher is None:
            raise ConfigurationError("cache_teacher_logits is set, but there is no teacher.")
        check_deterministic(dataset)
        logits = compute_logits(
            self._teacher,
            dataset,
            batch_size=self.args.eval_batch_size,
            collate=self.data_collator,
            device=self.args.device,
            accelerator=self.accelerator,
            num_workers=self.args.dataloader_num_workers,
        )
        return WithTeacherLogits(dataset, logits)

    def _not_finite(self, parts: LossParts) -> NonFiniteError:
        values = {name: getattr(parts, name) for name in ("hard", "soft")}
        shown = ", ".join(f"{name} {value.item():g}" for name, value in values.items() if value is not None)
        return NonFiniteError(
            f"The loss is not finite at step {self.state.global_step + 1} ({shown}; learning rate "
            f"{self._get_learning_rate():g}). Try a lower learning_rate, warmup_steps, max_grad_norm=1, or bf16 in "
            "place of fp16; if it is the first step, look for NaN in the images or the weights."
        )

    # Saving and restoring.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Trainer restores with a bare load_state_dict, which knows only the names of the modules in memory, but
        # save_pretrained writes the names of earlier versions; what they do not share would silently stay as it
        # is. So checkpoints of a run keep the names in memory; the final one is readable for 4.x.
        if not is_training_checkpoint(output_dir):
            super()._save(output_dir, state_dict)
            return
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with _names_in_memory(model):
            super()._save(output_dir, state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        missing, unexpected = list(load_result.missing_keys), list(load_result.unexpected_keys)
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        if unexpected or set(missing) - ignored:
            raise CheckpointError(
                f"The checkpoint does not hold the weights of the model under their names: {len(missing)} are missing "
                f"(first {missing[:1]}), {len(unexpected)} are not known (first {unexpected[:1]}). It was written by "
                "another Trainer or for another model; resume from one that DistillationTrainer wrote."
            )

    # Running out of memory.

    def _inner_training_loop(self, batch_size: int | None = None, args: Any = None, **options: Any) -> Any:
        if not self.args.auto_find_batch_size or batch_size is None:
            return super()._inner_training_loop(batch_size, args, **options)
        images = self.args.train_batch_size * self.args.gradient_accumulation_steps
        if images % batch_size:
            raise ConfigurationError(
                f"A batch of {batch_size} does not divide the {images} images of a step; resume with the settings of "
                "the run that was cut off."
            )
        start = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        tried = [batch_size]

        def reduce() -> int:
            tried.append(next_batch_size(tried[-1]))
            return tried[-1]

        def attempt(size: int) -> Any:
            if len(tried) > 1:
                # Steps may have been taken before memory ran out; the run starts over as if they had not.
                self.model.load_state_dict(start)
                self.optimizer = self.lr_scheduler = None
            self.args.gradient_accumulation_steps = images // size
            return super(DistillationTrainer, self)._inner_training_loop(size, args, **options)

        return find_executable_batch_size(attempt, batch_size, reduce)()


def next_batch_size(batch_size: int) -> int:
    """Return the largest divisor of a batch size that is at most half of it; 0 after 1."""
    return next((size for size in range(batch_size // 2, 0, -1) if batch_size % size == 0), 0)


def _check_heads(model: Any, args: DistillationArguments) -> None:
    if hasattr(model, "distillation_classifier") and args.hard_label_weight in (0, 1):
        head = "class" if args.hard_label_weight == 0 else "distillation"
        raise ConfigurationError(
            f"hard_label_weight is {args.hard_label_weight:g}, which leaves the {head} head of {type(model).__name__} "
            "untrained, though the model predicts with the mean of both. Expected a weight between 0 and 1."
        )


@contextmanager
def _names_in_memory(model: Any) -> Iterator[None]:
    model.save_pretrained = functools.partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        del model.save_pretrained
