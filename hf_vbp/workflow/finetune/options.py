"""Fields of a recipe that have an option on the command line, and their relation to the rest of the recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.finetune.checks import shown
from hf_vbp.workflow.finetune.fields import Tree, merge

# Option to its flag and the field that it sets; the labels are those of both parts of the data.
_FIELDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("--data", ("data.train.source",)),
    "evaluation": ("--eval-data", ("data.evaluation.source",)),
    "model_labels": ("--model-labels", ("data.train.model_labels", "data.evaluation.model_labels")),
    "label_map": ("--label-map", ("data.train.label_map", "data.evaluation.label_map")),
    "teacher": ("--teacher", ("teacher",)),
    "epochs": ("--epochs", ("training.num_train_epochs",)),
    "learning_rate": ("--learning-rate", ("training.learning_rate",)),
    "batch_size": ("--batch-size", ("training.per_device_train_batch_size",)),
    "output": ("--output", ("output",)),
}
_EVALUATION = "data.evaluation."


@dataclass(frozen=True)
class RecipeOptions:
    """Fields of a recipe given as options; None where an option was not given.

    Attributes:
        data: Sets ``data.train.source``.
        evaluation: Sets ``data.evaluation.source``.
        model_labels: Sets ``model_labels`` of the training and the evaluation images.
        label_map: Sets ``label_map`` of the training and the evaluation images.
        teacher: Sets ``teacher``.
        epochs: Sets ``training.num_train_epochs``.
        learning_rate: Sets ``training.learning_rate``.
        batch_size: Sets ``training.per_device_train_batch_size``.
        output: Sets ``output``.
    """

    data: str | None = None
    evaluation: str | None = None
    model_labels: str | None = None
    label_map: str | None = None
    teacher: str | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    output: str | Path | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None
        }

    @property
    def words(self) -> list[str]:
        """The options that were given, as words of a command line."""
        return [word for name, value in self.given.items() for word in (_FIELDS[name][0], _as_word(value))]


def apply_options(tree: Tree, overrides: Tree, options: RecipeOptions) -> tuple[Tree, list[str]]:
    """Set the fields of the options.

    Args:
        tree: The recipe, with the overrides.
        overrides: The fields given as ``section.field=value`` on the same command line.
        options: The options.

    Returns:
        The recipe, and a note for each field of a file whose value an option replaces.

    Raises:
        ConfigurationError: An option contradicts an override, or would have no effect.
    """
    notes = []
    # The sources come first: the labels of evaluation images are set only where there are such images.
    for name, value in options.given.items():
        flag, labels = _FIELDS[name]
        for label in labels:
            if label.startswith(_EVALUATION) and name != "evaluation" and not _value(tree, "data.evaluation"):
                continue
            before, override = _value(tree, label), _value(overrides, label)
            if override is not None and override != value:
                raise ConfigurationError(
                    f"{flag} {_as_word(value)} contradicts {label}={_as_word(override)}: give one of them."
                )
            if override is None and before is not None and before != value:
                notes.append(f"{flag} {_as_word(value)} replaces {label}: {shown(before)} of the recipe")
            tree = merge(tree, nested(label, value))
    _check_length(tree, overrides, options)
    return tree, notes


def _check_length(tree: Tree, overrides: Tree, options: RecipeOptions) -> None:
    """Refuse a number of epochs on the command line where the number of steps decides the length of the run."""
    epochs, steps = _value(overrides, "training.num_train_epochs"), _value(tree, "training.max_steps")
    if (epochs is None and options.epochs is None) or not isinstance(steps, int) or steps <= 0:
        return
    given = f"training.num_train_epochs={epochs}" if options.epochs is None else f"--epochs {_as_word(options.epochs)}"
    raise ConfigurationError(
        f"{given} would have no effect, because training.max_steps is {steps}: leave {given} out, or add "
        "training.max_steps=-1 for whole epochs."
    )


def nested(label: str, value: Any) -> Tree:
    """Return a recipe with one field, ``section.field``."""
    for part in reversed(label.split(".")):
        value = {part: value}
    tree: Tree = value
    return tree


def _value(tree: Any, label: str) -> Any:
    for part in label.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _as_word(value: Any) -> str:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value) if is_whole else value)
