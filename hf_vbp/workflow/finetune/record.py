"""What of a run goes into ``vbp_results.json``."""

from typing import Any

from hf_vbp.data.training_images import TrainingImages
from hf_vbp.results.record import without_unmeasured
from hf_vbp.results.versions import versions
from hf_vbp.workflow.finetune.recipe import Recipe

_LOGGED = {
    "loss": "loss",
    "hard_loss": "hard_loss",
    "soft_loss": "soft_loss",
    "eval_top1": "top1",
    "eval_top5": "top5",
    "eval_loss": "evaluation_loss",
}


def describe_run(
    recipe: Recipe, trainer: Any, training: TrainingImages, teacher: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Return the ``finetuning`` part of the results.

    Args:
        recipe: What was asked for.
        trainer: The trainer after its run.
        training: What was trained on.
        teacher: What identifies the teacher.
        seconds: How long it took, evaluation included, after the last resume.
    """
    args, state = trainer.args, trainer.state
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if args.auto_find_batch_size:
        per_step = trainer._train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = state.global_step
    run: dict[str, Any] = {
        "recipe": recipe.name,
        **teacher,
        **(args.distillation() if teacher.get("teacher") != "none" else {}),
        "epochs": round(float(state.epoch or 0), 4),
        "steps": steps,
        "images_per_step": per_step,
        "processes": args.world_size,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "learning_rate": args.learning_rate,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "weight_decay": args.weight_decay,
        "augmentation": recipe.data.augmentation,
        "seed": args.seed,
        # Also set by the launcher (ACCELERATE_MIXED_PRECISION), not only by the recipe.
        "precision": {"no": "fp32"}.get(args.mixed_precision, args.mixed_precision),
        "device": _device_name(args),
        "seconds": round(seconds, 1),
        "per_epoch": per_epoch(state.log_history),
        "versions": versions(),
    }
    if args.label_smoothing_factor:
        run["label_smoothing"] = args.label_smoothing_factor
    if args.load_best_model_at_end and state.best_metric is not None:
        run["best_step"] = state.best_global_step
    return run


def _device_name(args: Any) -> str:
    import torch

    return torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else str(args.device.type)


def per_epoch(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what was logged, one entry for each epoch: the mean of its losses, and its evaluation."""
    rows: dict[int, dict[str, list[float]]] = {}
    for entry in history:
        epoch = float(entry.get("epoch", 0))
        # What is logged at the end of epoch n stands at n.0 exactly; what is logged within it, below.
        number = int(epoch) if epoch == int(epoch) else int(epoch) + 1
        for key, name in _LOGGED.items():
            if key in entry:
                rows.setdefault(number, {}).setdefault(name, []).append(float(entry[key]))
    return [
        {"epoch": number, **{name: sum(values) / len(values) for name, values in rows[number].items()}}
        for number in sorted(rows)
    ]


def trained_results(
    results: dict[str, Any],
    evaluation: Any,
    before: dict[str, Any],
    training: TrainingImages,
    run: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    """Return the results with a run that has ended, before the trained model is evaluated.

    Figures on other images than these are replaced.

    Args:
        results: What is known so far.
        evaluation: The images that are evaluated on, None where none are.
        before: ``dense`` (where known) and ``pruned``, on these images.
        training: What was trained on.
        run: From :func:`describe_run`.
        command: What reproduces the run.
    """
    updated = {name: value for name, value in results.items() if name != "receipt"}
    data = dict(updated.get("data", {}))
    data["finetuning"] = {**training.provenance, "images": training.images}
    if evaluation is not None:
        data["evaluation"] = {**evaluation.provenance, "images": before["pruned"]["images"]}
        updated["evaluation"] = with_retention(before)
    updated |= {"data": data, "finetuning": run, "versions": versions()}
    if command:
        updated["command"] = command
    cleaned: dict[str, Any] = without_unmeasured(updated)
    return cleaned


def with_finetuned(results: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the results with the figures of the trained model.

    Args:
        results: From :func:`trained_results`.
        after: ``dense`` (where known) and ``finetuned``, on the images of the results; empty where none were measured.
    """
    if not after:
        return results
    measured = with_retention({**results.get("evaluation", {}), **after})
    run = results["finetuning"]
    if measured.get("dense", {}).get("top1"):
        run = {**run, "retention": measured["finetuned"]["top1"] / measured["dense"]["top1"]}
    cleaned: dict[str, Any] = without_unmeasured({**results, "evaluation": measured, "finetuning": run})
    return cleaned


def with_retention(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with the retention right after pruning, where the dense model was measured."""
    dense, pruned = (measured.get(name, {}).get("top1") for name in ("dense", "pruned"))
    return {**measured, "retention": pruned / dense} if dense and pruned is not None else dict(measured)
