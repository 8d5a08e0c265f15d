"""The section ``finetuning``: the settings of a run and its course, for ``hf-vbp finetune`` and the callback."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from hf_vbp.results.figures import Count, Fraction, NonNegative, PositiveCount, open_section
from hf_vbp.results.measured import without_unmeasured
from hf_vbp.results.redaction import redacted_command
from hf_vbp.results.versions import versions

_LOGGED = {
    "loss": "loss",
    "hard_loss": "hard_loss",
    "soft_loss": "soft_loss",
    "eval_top1": "top1",
    "eval_top5": "top5",
    "eval_loss": "evaluation_loss",
}
_SHARES = ("top1", "top5")


@open_section
class Epoch(TypedDict):
    """Means of the values logged in one epoch, and the evaluation at its end."""

    epoch: Count
    loss: NotRequired[float]
    hard_loss: NotRequired[float]
    soft_loss: NotRequired[float]
    top1: NotRequired[Fraction]
    top5: NotRequired[Fraction]
    evaluation_loss: NotRequired[float]


@open_section
class Finetuning(TypedDict, total=False):
    """The settings of a fine-tuning run and its course."""

    recipe: str
    teacher: str
    teacher_revision: str
    hard_label_weight: Fraction
    temperature: float
    soft_loss: str
    label_smoothing: Fraction
    epochs: NonNegative
    steps: Count
    images_per_step: PositiveCount
    processes: PositiveCount
    optimizer: str
    learning_rate: float
    schedule: str
    warmup_steps: NonNegative
    weight_decay: float
    max_grad_norm: float
    augmentation: str
    seed: int
    precision: str
    device: str
    seconds: NonNegative
    best_step: Count
    retention: NonNegative
    command: str
    per_epoch: list[Epoch]
    versions: dict[str, str]


def describe_run(
    args: Any,
    state: Any,
    *,
    recipe: str | None = None,
    teacher: Mapping[str, str] | None = None,
    augmentation: str | None = None,
    batch_size: int | None = None,
) -> Finetuning:
    """Return the description of a run of ``Trainer``.

    Only settings that influence the result are recorded: no folders, no tokens, no reporters.

    Args:
        args: The ``TrainingArguments``; those of a ``DistillationTrainer`` also give the settings of the loss.
        state: The ``TrainerState`` at the end.
        recipe: Name of the recipe.
        teacher: ``teacher`` and ``teacher_revision``, as far as they are known.
        augmentation: Name of the augmentation of the training images.
        batch_size: Images per device and step, where ``auto_find_batch_size`` chose another number than ``args``.
    """
    batch_size = batch_size or args.train_batch_size
    run: dict[str, Any] = {
        "recipe": recipe,
        **(teacher or {}),
        **_loss(args),
        "epochs": round(float(state.epoch or 0), 4),
        "steps": int(state.global_step),
        "images_per_step": batch_size * args.gradient_accumulation_steps * args.world_size,
        "processes": args.world_size,
        "optimizer": _text(args.optim),
        "learning_rate": args.learning_rate,
        "schedule": _text(args.lr_scheduler_type),
        "warmup_steps": args.warmup_steps or None,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "augmentation": augmentation,
        "label_smoothing": args.label_smoothing_factor or None,
        "seed": args.seed,
        # Also set by the launcher (ACCELERATE_MIXED_PRECISION), not only by the arguments.
        "precision": {"no": "fp32"}.get(args.mixed_precision, args.mixed_precision),
        "device": _device_name(args.device),
        "seconds": _seconds(state.log_history),
        "per_epoch": per_epoch(state.log_history),
        "versions": versions(),
    }
    if args.load_best_model_at_end and state.best_metric is not None:
        run["best_step"] = state.best_global_step
    measured: Finetuning = without_unmeasured(run)
    return measured


def _loss(args: Any) -> dict[str, Any]:
    describe = getattr(args, "distillation", None)
    return dict(describe()) if callable(describe) else {}


def _text(choice: Any) -> str:
    return str(getattr(choice, "value", choice))


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def _seconds(history: Sequence[Mapping[str, Any]]) -> float | None:
    times = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    return round(float(times[-1]), 1) if times else None


def per_epoch(history: Sequence[Mapping[str, Any]]) -> list[Epoch]:
    """Return one entry for each epoch: the mean of its logged losses, and its evaluation.

    Args:
        history: ``log_history`` of the ``TrainerState``.
    """
    rows: dict[int, dict[str, list[float]]] = {}
    for entry in history:
        epoch = float(entry.get("epoch", 0))
        # Entries from the end of epoch n have the number n.0; entries from within it have a lower one.
        number = int(epoch) if epoch == int(epoch) else int(epoch) + 1
        for key, name in _LOGGED.items():
            # Functions for compute_metrics that give percent use the same names.
            if key in entry and (name not in _SHARES or 0 <= entry[key] <= 1):
                rows.setdefault(number, {}).setdefault(name, []).append(float(entry[key]))
    return [
        {"epoch": number, **{name: sum(values) / len(values) for name, values in rows[number].items()}}  # type: ignore[typeddict-item]
        for number in sorted(rows)
    ]


def with_finetuning(
    results: Mapping[str, Any],
    run: Finetuning,
    *,
    evaluation: Mapping[str, Any] | None = None,
    same_images: bool = True,
    data: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return the results of a pruned checkpoint with a fine-tuning run. The receipt is dropped: the weights changed.

    Args:
        results: The results of the pruned checkpoint.
        run: The result of :func:`describe_run`.
        evaluation: The section ``evaluation`` after the run; by default the earlier one is kept.
        same_images: Whether all its figures are of the same images, so that the retention can be computed.
        data: Descriptions of the images by use: ``finetuning``, and ``evaluation`` where other images were used.
        command: The command that reproduces the run. The command of the pruning is kept.
    """
    updated = {name: value for name, value in results.items() if name != "receipt"}
    if evaluation is not None:
        updated["evaluation"] = with_retention(evaluation)
        after, before = (evaluation.get(name, {}).get("top1") for name in ("finetuned", "dense"))
        if same_images and before and after is not None:
            run = {**run, "retention": after / before}
    if command:
        run = {**run, "command": redacted_command(command)}
    updated |= {"data": {**results.get("data", {}), **(data or {})}, "finetuning": run, "versions": versions()}
    measured: dict[str, Any] = without_unmeasured(updated)
    return measured


def with_retention(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with the retention right after pruning, where the dense model was measured."""
    dense, pruned = (evaluation.get(name, {}).get("top1") for name in ("dense", "pruned"))
    if dense and pruned is not None:
        return {**evaluation, "retention": pruned / dense}
    return dict(evaluation)
