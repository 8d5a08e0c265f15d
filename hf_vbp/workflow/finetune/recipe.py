"""A recipe: everything that a fine-tuning run is made of, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.data.augmentation import AUGMENTATIONS
from hf_vbp.errors import ConfigurationError, HfVbpError
from hf_vbp.results.redaction import redacted
from hf_vbp.workflow.finetune.fields import (
    Tree,
    check_names,
    check_type,
    merge,
    read_override,
    read_yaml,
    section_of,
    write_yaml,
)
from hf_vbp.workflow.requests import DataRequest

if TYPE_CHECKING:
    from hf_vbp.distillation.arguments import DistillationArguments

NO_TEACHER = "none"
# What of a request for images the trainer decides instead.
_TRAINERS_OWN = {"batch_size": "per_device_train_batch_size", "num_workers": "dataloader_num_workers"}


@dataclass(frozen=True)
class PruneFirst:
    """The pruning that a recipe begins with.

    Attributes:
        model: The dense model: a Hub id, a folder, or ``sample``.
        config: What to remove and how.
        data: Calibration images.
        statistics: File of statistics gathered before, in place of ``data``.
        revision: Revision of the model.
    """

    model: str
    config: VBPConfig
    data: DataRequest | None = None
    statistics: Path | None = None
    revision: str | None = None


@dataclass(frozen=True)
class TrainingData:
    """The images of a recipe.

    Attributes:
        train: Images to train on.
        evaluation: Labelled images to evaluate on, each epoch and at the end.
        augmentation: ``"paper"``, ``"plain"`` or ``"none"``; see :class:`hf_vbp.data.augmentation.Augmentation`.
        keep_images: Whether to keep the training images in memory once they are decoded.
    """

    train: DataRequest
    evaluation: DataRequest | None = None
    augmentation: str = "paper"
    keep_images: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of.

    Attributes:
        output: Folder of the fine-tuned checkpoint.
        data: The images.
        model: The pruned checkpoint, a Hub id or a folder; not with ``prune``.
        prune: The pruning that comes first; not with ``model``.
        revision: Revision of ``model``.
        teacher: The model to learn from, by default the one that was pruned; ``"none"`` for labels alone.
        teacher_revision: Revision of ``teacher``.
        training: Fields of :class:`hf_vbp.distillation.DistillationArguments`.
        name: What the recipe is called in the results.
    """

    output: str
    data: TrainingData
    model: str | None = None
    prune: PruneFirst | None = None
    revision: str | None = None
    teacher: str | None = None
    teacher_revision: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    name: str = "recipe"

    def arguments(self) -> "DistillationArguments":
        """Return the settings of the run; also checks what transformers checks of them.

        Raises:
            ConfigurationError: They do not go together.
        """
        from hf_vbp.distillation.arguments import DistillationArguments

        # Shown by ours, on standard error, so that standard output holds only what was asked for.
        settings = {"output_dir": self.folder, "disable_tqdm": True, **self._epochwise(), **self.training}
        try:
            args = DistillationArguments(**settings)
            _check_reporters(args.report_to)
        except HfVbpError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            raise ConfigurationError(f"The training section of the recipe cannot be meant: {error}") from error
        return args

    def _epochwise(self) -> Tree:
        settings: Tree = {"save_strategy": "epoch", "save_total_limit": 2, "logging_strategy": "steps"}
        if self.data.evaluation is not None:
            settings["eval_strategy"] = "epoch"
        return settings

    @property
    def folder(self) -> str:
        """Where checkpoints of the run lie while it is under way."""
        return str(self.training.get("output_dir") or f"{self.output}-run")

    def to_yaml(self) -> str:
        """Return the recipe as text, with overrides in and every field of the images and the loss said."""
        from hf_vbp.distillation.arguments import DistillationArguments

        said = ("learning_rate", "weight_decay", "lr_scheduler_type", "per_device_train_batch_size")
        also_said = ("num_train_epochs", "seed", "hard_label_weight", "temperature", "soft_loss")
        defaults = {entry.name: entry.default for entry in fields(DistillationArguments)}
        tree: Tree = {"model": self.model, "revision": self.revision}
        if self.prune is not None:
            tree["prune"] = {
                "model": self.prune.model,
                "revision": self.prune.revision,
                "statistics": None if self.prune.statistics is None else str(self.prune.statistics),
                **self.prune.config.to_dict(),
                "data": _as_tree(self.prune.data),
            }
        tree |= {"teacher": self.teacher, "teacher_revision": self.teacher_revision}
        train = _as_tree(self.data.train) or {}
        tree["data"] = {
            "train": {name: value for name, value in train.items() if name not in _TRAINERS_OWN},
            "evaluation": _as_tree(self.data.evaluation),
            "augmentation": self.data.augmentation,
            "keep_images": self.data.keep_images,
        }
        tree["training"] = {**{name: defaults[name] for name in (*said, *also_said)}, **self.training}
        tree["output"] = self.output
        return write_yaml(redacted(_without_none(tree)))


def load_recipe(parts: Sequence[str | Path]) -> Recipe:
    """Read a recipe from files and overrides; what comes later goes over what came before.

    Args:
        parts: Files that end in ``.yaml`` or ``.yml``, and overrides such as ``training.learning_rate=1e-4``.

    Raises:
        ConfigurationError: A file cannot be read, or a field is unknown, missing or cannot be meant.

    Example:
        >>> load_recipe(["recipes/deit-tiny/recipe.yaml", "training.num_train_epochs=1"])  # doctest: +SKIP
    """
    tree: Tree = {}
    names = []
    for part in map(str, parts):
        if part.endswith((".yaml", ".yml")):
            tree = merge(tree, read_yaml(part))
            names.append(Path(part).parent.name if Path(part).stem == "recipe" else Path(part).stem)
        else:
            tree = merge(tree, read_override(part))
    return make_recipe(tree, name=names[0] if names else "recipe")


def make_recipe(tree: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """Check the fields of a recipe.

    Args:
        tree: The fields, as read from YAML.
        name: What the recipe is called in the results.

    Raises:
        ConfigurationError: A field is unknown, missing or cannot be meant.
    """
    known = ["output", "data", "model", "prune", "revision", "teacher", "teacher_revision", "training"]
    check_names(tree, known, "")
    if (tree.get("model") is None) == (tree.get("prune") is None):
        raise ConfigurationError(
            "A recipe starts from a pruned checkpoint (`model: FOLDER`) or prunes first (`prune:` with `model` and "
            f"`ratio` below it); this one says {'both' if tree.get('model') is not None else 'neither'}."
        )
    texts = {key: check_type(tree.get(key), str, key) for key in known if key not in ("data", "prune", "training")}
    if not texts["output"]:
        raise ConfigurationError("The recipe has no output: say where the checkpoint shall lie.")
    recipe = Recipe(
        **{key: value for key, value in texts.items() if value is not None},
        data=_data(section_of(tree, "data", required=True)),
        prune=_prune(section_of(tree, "prune")) if tree.get("prune") is not None else None,
        training=_training(section_of(tree, "training")),
        name=name,
    )
    return recipe


def _data(tree: Tree) -> TrainingData:
    check_names(tree, [entry.name for entry in fields(TrainingData)], "data")
    train_tree = section_of(tree, "train", required=True, label="data.train")
    for name, right in _TRAINERS_OWN.items():
        if name in train_tree:
            raise ConfigurationError(f"data.train.{name} would have no effect: set training.{right}.")
    train = _request(train_tree, "data.train")
    evaluation = tree.get("evaluation")
    augmentation = check_type(tree.get("augmentation", "paper"), str, "data.augmentation")
    if augmentation not in AUGMENTATIONS:
        raise ConfigurationError(f"data.augmentation is {augmentation!r}; expected one of {', '.join(AUGMENTATIONS)}.")
    return TrainingData(
        train=train,
        evaluation=None
        if evaluation is None
        else _request(section_of(tree, "evaluation", label="data.evaluation"), "data.evaluation"),
        augmentation=augmentation,
        keep_images=bool(check_type(tree.get("keep_images", False), bool, "data.keep_images")),
    )


def _prune(tree: Tree) -> PruneFirst:
    own, config = ("model", "data", "statistics", "revision"), [entry.name for entry in fields(VBPConfig)]
    check_names(tree, [*own, *config], "prune")
    if tree.get("data") is None and tree.get("statistics") is None:
        raise ConfigurationError("prune has neither data nor statistics: say what to calibrate on.")
    model = check_type(tree.get("model"), str, "prune.model")
    if model is None:
        raise ConfigurationError("prune has no model: say which model to prune.")
    statistics = check_type(tree.get("statistics"), str, "prune.statistics")
    settings = _typed({key: tree[key] for key in config if key in tree}, VBPConfig, "prune")
    return PruneFirst(
        model=model,
        config=VBPConfig(**settings),
        data=_request(section_of(tree, "data", label="prune.data"), "prune.data") if tree.get("data") else None,
        statistics=None if statistics is None else Path(statistics),
        revision=check_type(tree.get("revision"), str, "prune.revision"),
    )


def _request(tree: Tree, label: str) -> DataRequest:
    check_names(tree, [entry.name for entry in fields(DataRequest)], label)
    if not tree.get("source"):
        raise ConfigurationError(f"{label} has no source: a Hub data set, an image folder, tar shards, or sample.")
    return DataRequest(**_typed(tree, DataRequest, label))


def _training(tree: Tree) -> Tree:
    from hf_vbp.distillation.arguments import DistillationArguments

    known = [entry.name for entry in fields(DistillationArguments) if entry.init]
    check_names(tree, known, "training")
    return _typed(tree, DistillationArguments, "training")


def _typed(tree: Tree, owner: Any, section: str) -> Tree:
    hints = get_type_hints(owner)
    defaults = {entry.name: entry.default for entry in fields(owner)}
    return {
        name: check_type(value, _expected(hints[name], defaults[name]), f"{section}.{name}")
        for name, value in tree.items()
    }


def _expected(hint: Any, default: Any) -> Any:
    """Return the one plain type that a field takes, None where it takes several."""
    options = [option for option in get_args(hint) or (hint,) if option is not type(None)]
    if len(options) == 1 and options[0] in (bool, int, float, str):
        return options[0]
    if options and all(isinstance(option, str) for option in options):
        return str
    return type(default) if default not in (None, MISSING) and len(options) == 1 else None


def _check_reporters(names: Any) -> None:
    """Refuse what ``report_to`` does not know or finds not installed, which Trainer does only after pruning."""
    from transformers.integrations import get_reporting_integration_callbacks

    for callback in get_reporting_integration_callbacks(names):
        callback()


def _as_tree(request: DataRequest | None) -> Tree | None:
    if request is None:
        return None
    return {entry.name: getattr(request, entry.name) for entry in fields(request)}


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
