"""A ``transformers.Trainer`` that trains a student against its teacher and restores every weight that it saved."""

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
from hf_vbp.distillation.losses import Heads, LossParts, Share, read_heads
from hf_vbp.distillation.metrics import metrics_for
from hf_vbp.distillation.parts_log import PartsLog
from hf_vbp.distillation.sharding import check_launch
from hf_vbp.distillation.step_counts import StepCounts, count_step
from hf_vbp.distillation.tasks import check_labels, check_logits, problem_type
from hf_vbp.distillation.teacher import Teacher, check_teacher
from hf_vbp.errors import CheckpointError, ConfigurationError, NonFiniteError
from hf_vbp.modeling.precision import own_precision

_LABELS = "labels"


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """``Trainer`` with a teacher.

    Differences from ``Trainer``, in addition to the loss (:class:`~hf_vbp.distillation.DistillationLoss`):

    - every image has the same weight in a step, independent of micro-batches and processes;
      images with the label -100 count for the teacher only;
    - the loss follows ``config.problem_type``: one label per image, several labels (binary cross entropy) or
      regression (squared error);
    - best-model restore and resume restore every weight; ``Trainer`` of transformers 5 does not restore the
      encoder of ViT and DeiT (upstream issues 43701, 40187);
    - ``resume_from_checkpoint=True`` uses the newest complete checkpoint;
    - models with two heads (``DeiTForImageClassificationWithTeacher``) train both, and predict with their mean;
    - the parts of the loss are logged separately, as ``hard_loss`` and ``soft_loss``;
    - a loss that is not finite stops the run;
    - evaluation computes in the dtype of the weights, not in mixed precision (except under FSDP);
    - ``auto_find_batch_size`` halves the batch when memory runs out and keeps the images per step.

    Args:
        model: The student, for instance a pruned model.
        args: The settings.
        teacher: The model that the student is trained against, with the same labels; None trains on labels alone.
            It is set to eval mode on the device of the run and is not changed otherwise.
        **options: Other arguments of ``Trainer``. By default ``compute_metrics`` gives the loss and, for one label per
            image, ``top1`` and ``top5``. With ``model_init`` in place of ``model``, every new student is checked
            against the teacher. ``compute_loss_func`` is refused.

    Raises:
        LabelError: Teacher and student have different labels.
        ConfigurationError: Student, teacher and settings do not fit each other.

    Example:
        >>> from hf_vbp.distillation import DistillationArguments, DistillationTrainer
        >>> args = DistillationArguments("out", num_train_epochs=10)  # doctest: +SKIP
        >>> DistillationTrainer(pruned, args, teacher=dense, train_dataset=images).train()  # doctest: +SKIP
    """

    # The loss is a mean over the micro-batch. By default Trainer assumes a mean over the whole step, because vision
    # heads accept any keyword, and the gradient is too large by the number of accumulation steps.
    loss_is_scaled_for_ga = False
    train_dataset: Any

    def __init__(
        self,
        model: Any = None,
        args: DistillationArguments | None = None,
        *,
        teacher: Any | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(args, DistillationArguments):
            raise ConfigurationError(f"args is a {type(args).__name__}; expected DistillationArguments.")
        check_launch(args)
        if options.get("compute_loss_func") is not None:
            raise ConfigurationError(
                "compute_loss_func is not supported: the loss of DistillationTrainer is that of the settings "
                "(hard_label_weight, temperature, soft_loss). Override compute_loss in a subclass, or use "
                "transformers.Trainer."
            )
        if teacher is None and args.cache_teacher_logits:
            raise ConfigurationError("cache_teacher_logits is set, but there is no teacher.")
        args.has_teacher = teacher is not None
        self._unchecked_teacher = teacher
        if model is not None:
            self._check_student(model, args)
        super().__init__(model=model, args=args, **options)
        self.problem_type = problem_type(self.model.config)
        if "compute_metrics" not in options:
            self.compute_metrics = metrics_for(self.problem_type)
        self.add_callback(ShowEpoch(self))
        self.distillation_loss = args.loss
        self.parts_log = PartsLog()
        self._step_counts: StepCounts | None = None
        self._teacher = None
        if teacher is not None:
            self._teacher = Teacher(teacher, device=args.device, dtype=args.teacher_dtype)

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new student from ``model_init``, checked against the teacher."""
        model = super().call_model_init(trial)
        self._check_student(model, self.args)
        return model

    def _check_student(self, model: Any, args: DistillationArguments) -> None:
        problem_type(model.config)
        if self._unchecked_teacher is not None:
            check_teacher(model, self._unchecked_teacher)
            _check_heads(model, args)

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """Train, as ``Trainer.train`` does.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the newest complete one in ``args.output_dir``.
            **options: Other arguments of ``Trainer.train``.

        Raises:
            CheckpointError: There is no complete checkpoint to resume from.
            NonFiniteError: The loss became NaN or infinite.
        """
        if resume_from_checkpoint is True:
            found = last_checkpoint(self.args.output_dir)
            if found is None:
                raise CheckpointError(
                    f"{self.args.output_dir} holds no complete checkpoint to resume from; start without "
                    "resume_from_checkpoint."
                )
            resume_from_checkpoint = str(found)
        if self.args.cache_teacher_logits and not isinstance(self.train_dataset, WithTeacherLogits):
            self.train_dataset = self._with_logits(self.train_dataset)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)
        finally:
            self._release_workers()

    def _release_workers(self) -> None:
        # Left to the cyclic garbage collector, an iterator of torch loses its queues before it stops its workers, and
        # then waits 5 seconds for each of them.
        loaders = [self.callback_handler.train_dataloader, self.callback_handler.eval_dataloader]
        loaders += getattr(self, "_eval_dataloaders", {}).values()
        for loader in loaders:
            inner = getattr(loader, "base_dataloader", loader)
            if getattr(inner, "_iterator", None) is not None:
                inner._iterator = None

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one micro-batch, in evaluation the loss against the labels.

        Args:
            model: The student, wrapped or not.
            inputs: ``pixel_values`` ``(batch, channels, height, width)`` and ``labels`` ``(batch,)`` or, for other
                problem types than one label per image, ``(batch, outputs)``.
            return_outputs: Whether to return ``(loss, {"logits": ...})``.
            num_items_in_batch: Not used: :meth:`get_batch_samples` counts the images of a step.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
            LabelError: The labels do not belong to the problem type.
            ConfigurationError: The model gives something else than one row of logits for each image.
        """
        inputs = dict(inputs)
        labels, cached = inputs.pop(_LABELS, None), inputs.pop(TEACHER_LOGITS, None)
        heads = read_heads(model(**inputs))
        check_logits(heads.final)
        if labels is not None:
            explicit = getattr(self.model.config, "problem_type", None) is not None
            labels = check_labels(labels, heads.final, self.problem_type, explicit=explicit)
        if model.training:
            loss = self._training_loss(heads, self._teacher_logits(inputs, cached), labels)
        else:
            alone = Heads(heads.final, heads.final, heads.final)
            loss = self.distillation_loss.total(self.distillation_loss.parts(alone, None, labels, self.problem_type))
        return (loss, {"logits": heads.final}) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluate in the dtype of the weights, so that the figures compare with those before training."""
        if self.is_fsdp_enabled:
            # The precision is a property of the shards there.
            return super().evaluation_loop(*args, **options)
        with own_precision(self.model):
            return super().evaluation_loop(*args, **options)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Return the micro-batches of a step as ``Trainer`` does, after counting their images."""
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_counts = count_step(
            found[0],
            self.problem_type,
            device=device,
            accelerator=self.accelerator,
            across=self.args.average_tokens_across_devices,
        )
        return found

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Log, with the parts of the loss in addition to their weighted sum."""
        if "loss" in logs:
            logs |= self.parts_log.means(self.accelerator)
        super().log(logs, *args, **options)

    def _training_loss(self, heads: Heads, teacher: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor:
        parts = self.distillation_loss.parts(heads, teacher, labels, self.problem_type)
        shares = self._shares(len(heads.final), labels)
        loss = self.distillation_loss.total(parts, *shares)
        if not bool(torch.isfinite(loss)):
            raise self._not_finite(parts)
        self.parts_log.add(parts, *shares, 1 / self.current_gradient_accumulation_steps)
        return loss

    def _shares(self, images: int, labels: torch.Tensor | None) -> tuple[Share, Share]:
        """Return the weights of a micro-batch relative to the mean of the micro-batches of the step."""
        if self._step_counts is None or self.args.n_gpu > 1:
            return 1.0, 1.0
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        parts = self.current_gradient_accumulation_steps * processes
        return self._step_counts.shares(images, labels, self.problem_type, parts)

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
            "place of fp16; at the first step, check the images and the weights for NaN."
        )

    # Saving and restoring.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Trainer restores with a plain load_state_dict, which uses the names of the modules in memory, but
        # save_pretrained writes the names of earlier versions; weights with other names would silently not be
        # restored. So checkpoints of a run keep the names in memory; the final one is readable for 4.x.
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
                f"(first {missing[:1]}), {len(unexpected)} are unknown (first {unexpected[:1]}). It was written by "
                "another Trainer or for another model; resume from one that DistillationTrainer wrote."
            )

    # The end of a run.

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        # Resumed from the checkpoint of its last step in the middle of an epoch, Trainer takes one step more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)

    # Running out of memory.

    def _inner_training_loop(self, batch_size: int | None = None, args: Any = None, **options: Any) -> Any:
        if not self.args.auto_find_batch_size or batch_size is None:
            return super()._inner_training_loop(batch_size, args, **options)
        images = self.args.train_batch_size * self.args.gradient_accumulation_steps
        if images % batch_size:
            raise ConfigurationError(
                f"A batch of {batch_size} does not divide the {images} images of a step; resume with the settings of "
                "the interrupted run."
            )
        start = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        tried = [batch_size]

        def reduce() -> int:
            tried.append(next_batch_size(tried[-1]))
            return tried[-1]

        def attempt(size: int) -> Any:
            if len(tried) > 1:
                # Steps may have been taken before memory ran out; the run starts again from the first weights.
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
