"""Fine-tune a pruned checkpoint from a recipe."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from transformers import PrinterCallback

from hf_vbp.checkpoint.unverified import FAILURES
from hf_vbp.data.augmentation import Augmentation
from hf_vbp.data.training_images import TrainingImages, collate_training, open_training_images
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.checkpoints import last_checkpoint, training_checkpoints
from hf_vbp.distillation.sharding import check_launch
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.files.layout import RESULTS
from hf_vbp.modeling.precision import remove_autocast_wrapper
from hf_vbp.results.finetuning import describe_run, with_finetuning
from hf_vbp.workflow.finetune.finish import Trained, check_kept, dense_model, finish, keep, measure, reopen
from hf_vbp.workflow.finetune.folders import finetune_output
from hf_vbp.workflow.finetune.progress import ReportProgress
from hf_vbp.workflow.finetune.publish import take_over_push
from hf_vbp.workflow.finetune.recipe import Recipe
from hf_vbp.workflow.finetune.start import Start, TeacherChoice, choose_teacher, open_start
from hf_vbp.workflow.requests import Reporter, with_note, without_processor


def run_finetune(
    recipe: Recipe, reporter: Reporter, *, resume: bool = False, overwrite: bool = False, command: str = ""
) -> dict[str, Any]:
    """Fine-tune by a recipe and write the checkpoint.

    Under ``accelerate launch`` every process calls this; the first one evaluates and writes.

    Args:
        recipe: The recipe.
        reporter: Receives progress updates.
        resume: Continue an earlier run: evaluate and save its trained model where the run ended before it was
            verified; otherwise train from its newest complete checkpoint, or from the beginning where there is none.
        overwrite: Replace the checkpoint at the output, and the checkpoints and the unverified model of an
            earlier run.
        command: Command line that reproduces this run, for the results.

    Returns:
        The results, with the content of ``vbp_results.json``. A model without such a file gets none with its
        checkpoint, and only the parts about fine-tuning here.

    Raises:
        CheckpointError: The evaluation or the verification of the trained model failed. The model is kept in
            ``OUTPUT.unverified``, which the message names; ``resume`` finishes the run from there.
        HubError: The repository of ``training.push_to_hub`` cannot be pushed to, before any work, or the push failed
            after the checkpoint was saved.
        HfVbpError: Any other failure, raised before expensive work where that is possible.
    """
    args = recipe.arguments()
    check_launch(args)
    for note in recipe.notes:
        reporter.say(note)
    publication = take_over_push(recipe, args)
    with finetune_output(recipe, args, overwrite=overwrite):
        leads = args.process_index == 0
        if publication is not None and leads:
            publication.check()
        if check_kept(recipe, resume=resume, overwrite=overwrite, leads=leads):
            results = _finish_kept(recipe, args, reporter, overwrite)
        else:
            _check_folder(args, resume=resume, overwrite=overwrite)
            results = _finetune_and_save(recipe, args, reporter, resume=resume, overwrite=overwrite, command=command)
    if publication is not None and leads:
        publication.push(reporter)
    return results


def _finetune_and_save(
    recipe: Recipe,
    args: DistillationArguments,
    reporter: Reporter,
    *,
    resume: bool,
    overwrite: bool,
    command: str,
) -> dict[str, Any]:
    leads = args.process_index == 0
    start = open_start(recipe, reporter)
    if recipe.training.get("push_to_hub") and not start.results:
        raise ConfigurationError(
            f"{start.student.source} has no {RESULTS}, from which the card of a push is made: prune it with hf-vbp "
            "prune, or leave training.push_to_hub out."
        )
    teacher = choose_teacher(recipe, start, reporter, weight=args.hard_label_weight)
    evaluation = recipe.data.evaluation.open(start.student, "evaluation") if recipe.data.evaluation else None
    training = _training_images(recipe, start, args, labelled=teacher.loaded is None or args.hard_label_weight > 0)
    for images in (training, evaluation):
        if images is not None:
            with_note(images, reporter)
    _settle_length(args, training)
    dense = dense_model(start, teacher)
    pruned = {"pruned": start.student.model}
    before = measure(dense, pruned, evaluation, reporter, args.device) if leads else {}
    trainer, failure = _train(start, teacher, training, evaluation, args, reporter, resume)
    model = _whole_model(trainer, start)
    results: dict[str, Any] = {}
    if leads:
        run = describe_run(
            trainer.args,
            trainer.state,
            recipe=recipe.name,
            teacher=teacher.described,
            augmentation=recipe.data.augmentation,
            batch_size=trainer._train_batch_size if args.auto_find_batch_size else None,
        )
        data = {"finetuning": {**training.provenance, "images": training.images}}
        if evaluation is not None:
            data["evaluation"] = {**evaluation.provenance, "images": before["pruned"]["images"]}
        so_far = with_finetuning(start.results, run, evaluation=before or None, data=data, command=command)
        trained = Trained(model, start, dense, evaluation, so_far)
        keep(recipe, trained)
        results = finish(recipe, trained, reporter, overwrite=overwrite, device=args.device, failure=failure)
    elif failure is not None:
        raise failure
    trainer.accelerator.wait_for_everyone()
    return results


def _finish_kept(recipe: Recipe, args: DistillationArguments, reporter: Reporter, overwrite: bool) -> dict[str, Any]:
    """Evaluate and save the model of a run that ended before it was verified; nothing is trained."""
    results: dict[str, Any] = {}
    if args.process_index == 0:
        trained = reopen(recipe, reporter, weight=args.hard_label_weight)
        results = finish(recipe, trained, reporter, overwrite=overwrite, device=args.device)
    args.distributed_state.wait_for_everyone()
    return results


def _check_folder(args: DistillationArguments, *, resume: bool, overwrite: bool) -> None:
    found = training_checkpoints(args.output_dir)
    if resume or not found:
        return
    if not overwrite:
        raise CheckpointError(
            f"{args.output_dir} holds {found[0].name} of an earlier run; continue it with --resume, or start over "
            "with --overwrite."
        )
    if args.process_index == 0:
        for folder in found:
            shutil.rmtree(folder)


def _training_images(recipe: Recipe, start: Start, args: DistillationArguments, *, labelled: bool) -> TrainingImages:
    if start.student.processor is None:
        raise without_processor(start.student.source)
    seed = args.seed if args.data_seed is None else args.data_seed
    augmentation = Augmentation(recipe.data.augmentation, start.student.processor, seed=seed)
    if args.cache_teacher_logits and augmentation.is_random:
        raise ConfigurationError(
            f"cache_teacher_logits needs the same images in every epoch, but data.augmentation is "
            f'{augmentation.name!r}. Set one of them: cache_teacher_logits to false, or the augmentation to "none".'
        )
    return open_training_images(
        **asdict(recipe.data.train),
        augmentation=augmentation,
        id2label=start.student.model.config.id2label,
        labelled=labelled,
        keep=recipe.data.keep_images,
    )


def _settle_length(args: DistillationArguments, training: TrainingImages) -> None:
    if training.images is None and args.max_steps <= 0:
        raise ConfigurationError(
            f"{training.provenance['source']} is a stream of unknown length, so epochs cannot be counted: set "
            "training.max_steps."
        )


def _train(
    start: Start,
    teacher: TeacherChoice,
    training: TrainingImages,
    evaluation: Any,
    args: DistillationArguments,
    reporter: Reporter,
    resume: bool,
) -> tuple[DistillationTrainer, BaseException | None]:
    """Train; return the trainer and the error of the last evaluation, where it failed after the last step."""
    trainer = DistillationTrainer(
        start.student.model,
        args,
        teacher=None if teacher.loaded is None else teacher.loaded.model,
        train_dataset=training.dataset,
        eval_dataset=None if evaluation is None else evaluation.loader.dataset,
        processing_class=start.student.processor,
        data_collator=collate_training,
    )
    trainer.remove_callback(PrinterCallback)
    progress = ReportProgress(reporter)
    trainer.add_callback(progress)
    checkpoint = last_checkpoint(args.output_dir) if resume else None
    if resume and checkpoint is None:
        reporter.say(
            f"{args.output_dir} holds no complete checkpoint to resume from; training starts from the beginning"
        )
    try:
        with _advice_on_memory(args):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except FAILURES as error:
        if not _took_last_step(trainer):
            raise
        return trainer, error
    finally:
        progress.close()
    return trainer, None


def _took_last_step(trainer: DistillationTrainer) -> bool:
    # Under FSDP all processes gather the weights, and some of them may have failed.
    return 0 < trainer.state.max_steps <= trainer.state.global_step and not trainer.is_fsdp_enabled


@contextmanager
def _advice_on_memory(args: DistillationArguments) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"The device ran out of memory with batches of {args.per_device_train_batch_size} images. Set "
            "training.auto_find_batch_size to true: the batch is then halved until it fits, and as many are "
            "accumulated."
        ) from error


def _whole_model(trainer: DistillationTrainer, start: Start) -> Any:
    """Return the trained model as one plain model in the dtype of its checkpoint, in eval mode."""
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(trainer.model)
        model = start.student.model if trainer.args.process_index else _rebuilt(start.student.model, state)
    else:
        model = trainer.accelerator.unwrap_model(trainer.model)
        remove_autocast_wrapper(model)
    return model.to(start.dtype).eval()


def _rebuilt(sharded: Any, state: dict[str, torch.Tensor]) -> Any:
    model = type(sharded)(sharded.config)
    model.load_state_dict(state)
    return model
