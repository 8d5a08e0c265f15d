"""From a recipe to a checkpoint with its accuracy back."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PrinterCallback

from hf_vbp.data.augmentation import Augmentation
from hf_vbp.data.training_images import TrainingImages, open_training_images
from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.distillation.checkpoints import training_checkpoints
from hf_vbp.distillation.sharding import check_launch
from hf_vbp.distillation.trainer import DistillationTrainer
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError
from hf_vbp.results.finetuning import describe_run, with_finetuning
from hf_vbp.results.record import RESULTS_NAME, to_json
from hf_vbp.workflow.finetune.progress import ReportProgress
from hf_vbp.workflow.finetune.recipe import Recipe
from hf_vbp.workflow.finetune.start import PLAN_NAME, Start, TeacherChoice, choose_teacher, open_start
from hf_vbp.workflow.requests import Reporter

RECIPE_NAME = "recipe.yaml"


def run_finetune(
    recipe: Recipe, reporter: Reporter, *, resume: bool = False, overwrite: bool = False, command: str = ""
) -> dict[str, Any]:
    """Fine-tune as a recipe says and write the checkpoint.

    Under ``accelerate launch`` every process calls this; the first one evaluates and writes.

    Args:
        recipe: What to do.
        reporter: Who is told how it goes.
        resume: Go on from the newest whole checkpoint of a run that was cut off.
        overwrite: Replace the checkpoint at the output, and checkpoints of an earlier run.
        command: What reproduces this run, for the results.

    Returns:
        The results, as ``vbp_results.json`` holds them. A model without such a file gets none beside its
        checkpoint, and only the parts about fine-tuning here.

    Raises:
        HfVbpError: Anything that cannot be done, before any expensive work where that can be known.
    """
    from hf_vbp.checkpoint.atomic_folder import check_output_directory

    args = recipe.arguments()
    check_launch(args)
    check_output_directory(recipe.output, overwrite)
    _check_folder(args, resume=resume, overwrite=overwrite)
    start = open_start(recipe, reporter)
    teacher = choose_teacher(recipe, start, weight=args.hard_label_weight)
    evaluation = recipe.data.evaluation.open(start.student, "evaluation") if recipe.data.evaluation else None
    training = _training_images(recipe, start, args, labelled=teacher.loaded is None or args.hard_label_weight > 0)
    _settle_length(args, training)
    before = _evaluate(start, teacher, evaluation, reporter, args) if args.process_index == 0 else {}
    trainer = _train(start, teacher, training, evaluation, args, reporter, resume)
    model = _whole_model(trainer, start)
    results: dict[str, Any] = {}
    if args.process_index == 0:
        after = _evaluate(start, teacher, evaluation, reporter, args, finetuned=model)
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
            data["evaluation"] = {**evaluation.provenance, "images": after["finetuned"]["images"]}
        results = with_finetuning(
            start.results, run, evaluation={**before, **after} or None, data=data, command=command
        )
        results = _write(recipe, start, model, results, reporter, overwrite)
    trainer.accelerator.wait_for_everyone()
    return results


def _check_folder(args: DistillationArguments, *, resume: bool, overwrite: bool) -> None:
    found = training_checkpoints(args.output_dir)
    if resume or not found:
        return
    if not overwrite:
        raise CheckpointError(
            f"{args.output_dir} holds {found[0].name} of an earlier run; go on from it with --resume, or start over "
            "with --overwrite."
        )
    if args.process_index == 0:
        for folder in found:
            shutil.rmtree(folder)


def _training_images(recipe: Recipe, start: Start, args: DistillationArguments, *, labelled: bool) -> TrainingImages:
    if start.student.processor is None:
        raise DataError(
            f"{start.student.source} has no image processor (preprocessor_config.json), so images cannot be prepared "
            "for it. Save the processor it was trained with beside the model."
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    augmentation = Augmentation(recipe.data.augmentation, start.student.processor, seed=seed)
    if args.cache_teacher_logits and augmentation.is_random:
        raise ConfigurationError(
            f"cache_teacher_logits needs the same images in every epoch, but data.augmentation is "
            f'{augmentation.name!r}. Set one of them: cache_teacher_logits to false, or the augmentation to "none".'
        )
    return open_training_images(
        recipe.data.train,
        augmentation=augmentation,
        id2label=start.student.model.config.id2label,
        labelled=labelled,
        keep=recipe.data.keep_images,
    )


def _settle_length(args: DistillationArguments, training: TrainingImages) -> None:
    if training.images is None and args.max_steps <= 0:
        raise ConfigurationError(
            f"{training.provenance['source']} is a stream that does not say how many images it has, so epochs cannot "
            "be counted: set training.max_steps."
        )


def _train(
    start: Start,
    teacher: TeacherChoice,
    training: TrainingImages,
    evaluation: Any,
    args: DistillationArguments,
    reporter: Reporter,
    resume: bool,
) -> DistillationTrainer:
    trainer = DistillationTrainer(
        start.student.model,
        args,
        teacher=None if teacher.loaded is None else teacher.loaded.model,
        train_dataset=training.dataset,
        eval_dataset=None if evaluation is None else evaluation.loader.dataset,
        processing_class=start.student.processor,
    )
    trainer.remove_callback(PrinterCallback)
    progress = ReportProgress(reporter)
    trainer.add_callback(progress)
    try:
        with _advice_on_memory(args):
            trainer.train(resume_from_checkpoint=resume or None)
    finally:
        progress.close()
    return trainer


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
    return model.to(start.dtype).eval()


def _rebuilt(sharded: Any, state: dict[str, torch.Tensor]) -> Any:
    model = type(sharded)(sharded.config)
    model.load_state_dict(state)
    return model


def _evaluate(
    start: Start,
    teacher: TeacherChoice,
    images: Any,
    reporter: Reporter,
    args: DistillationArguments,
    *,
    finetuned: Any = None,
) -> dict[str, Any]:
    """Measure the dense model, as far as it is known, and one state of the student on the same images."""
    from hf_vbp.evaluation.models import evaluate_models

    if images is None:
        return {}
    base = start.base if start.base is not None else teacher.loaded if teacher.is_base else None
    models = {} if base is None else {"dense": base.model}
    models["pruned" if finetuned is None else "finetuned"] = start.student.model if finetuned is None else finetuned
    title = "Evaluation before" if finetuned is None else "Evaluation after"
    with reporter.stage(title, images.images) as progress:
        found = evaluate_models(
            models,
            images.loader,
            reference=None if base is None else "dense",
            progress=progress,
            device=args.device,
        )
    return {name: entry.to_dict() for name, entry in found.items()}


def _write(
    recipe: Recipe, start: Start, model: Any, results: dict[str, Any], reporter: Reporter, overwrite: bool
) -> dict[str, Any]:
    from hf_vbp.checkpoint.saving import save_checkpoint
    from hf_vbp.workflow.saving import with_receipt

    files: dict[str, Any] = {RECIPE_NAME: recipe.to_yaml()}
    if start.plan is not None:
        files[PLAN_NAME] = start.plan
    if start.results:
        files[RESULTS_NAME] = lambda receipt: to_json(with_receipt(results, receipt))
    reporter.say(f"Writing {recipe.output}, and reopening it in a fresh process")
    receipt = save_checkpoint(
        model, recipe.output, processor=start.student.processor, files=files, overwrite=overwrite
    )
    return with_receipt(results, receipt)
