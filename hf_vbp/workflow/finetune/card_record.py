"""What a run of ``Trainer`` adds to the results of a pruned checkpoint: read from its state, nothing else."""

from collections.abc import Mapping
from typing import Any

_TOP1 = ("eval_top1", "eval_accuracy")
# Settings that say how it was trained; never folders, tokens or anything else of the machine.
_SETTINGS = (
    "learning_rate",
    "weight_decay",
    "optim",
    "lr_scheduler_type",
    "warmup_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "seed",
    "bf16",
    "fp16",
)


def with_finetuning(
    results: Mapping[str, Any],
    args: Any,
    state: Any,
    *,
    eval_images: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the results with how the model was fine-tuned and how it then did.

    Args:
        results: The results of the pruned checkpoint.
        args: The ``TrainingArguments`` of the run.
        state: The ``TrainerState`` at its end.
        eval_images: Images that ``Trainer`` evaluated on; without it no accuracy is recorded. ``Trainer`` evaluates
            in the precision that it trains in, so with mixed precision the figure must be measured again.
        data: The ``data.finetuning`` part: where the training images came from.
    """
    described = {**results, "finetuning": describe_run(args, state)}
    evaluation = read_evaluation(args, state, eval_images)
    if evaluation is not None:
        described["evaluation"] = {**results.get("evaluation", {}), "finetuned": evaluation}
    if data is not None:
        described["data"] = {**results.get("data", {}), "finetuning": dict(data)}
    return described


def describe_run(args: Any, state: Any) -> dict[str, Any]:
    """Return the settings of a run and how far it went."""
    run: dict[str, Any] = {"epochs": round(float(state.epoch or 0), 2), "steps": int(state.global_step)}
    run["processes"] = int(getattr(args, "world_size", 1))
    for name in _SETTINGS:
        value = getattr(args, name, None)
        if value is not None and value is not False:
            run[name] = value if isinstance(value, int | float) else str(getattr(value, "value", value))
    precision = getattr(args, "mixed_precision", "no")
    if precision in ("bf16", "fp16"):
        # Also set by the launcher (ACCELERATE_MIXED_PRECISION), which leaves the field of that name False.
        run[precision] = True
    distillation = getattr(args, "distillation", None)
    if isinstance(distillation, Mapping):
        run["distillation"] = dict(distillation)
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    if losses:
        run["last_training_loss"] = float(losses[-1])
    return run


def read_evaluation(args: Any, state: Any, images: int | None) -> dict[str, Any] | None:
    """Return how the final weights did, from the log: those of the best step where they were restored."""
    restored = getattr(args, "load_best_model_at_end", False) and getattr(state, "best_global_step", None)
    step = int(restored or state.global_step)
    for entry in reversed(state.log_history):
        name = next((name for name in _TOP1 if name in entry), None)
        if name and entry.get("step") == step and images:
            return _evaluation(float(entry[name]), entry.get("eval_top5"), images)
    return None


def _evaluation(top1: float, top5: float | None, images: int) -> dict[str, Any]:
    from hf_vbp.evaluation.measures import wilson_interval

    interval = wilson_interval(round(top1 * images), images)
    evaluation: dict[str, Any] = {"images": images, "top1": top1, "top1_interval": list(interval)}
    return evaluation if top5 is None else {**evaluation, "top5": float(top5)}
