"""A recipe: all settings of a fine-tuning run, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from hf_vbp._packages import missing_package
from hf_vbp._progress import one_line
from hf_vbp.config.vbp_config import BUDGETS, VBPConfig
from hf_vbp.data.augmentation import AUGMENTATIONS
from hf_vbp.errors import ConfigurationError, HfVbpError
from hf_vbp.files.wrong_file import content_of, missing_or_special
from hf_vbp.results.redaction import redacted
from hf_vbp.workflow.finetune.checks import check_range, check_secrets, shown
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
from hf_vbp.workflow.finetune.options import RecipeOptions, apply_options
from hf_vbp.workflow.requests import DataRequest

if TYPE_CHECKING:
    from hf_vbp.distillation.arguments import DistillationArguments

NO_TEACHER = "none"
# Fields of a request for training images that the trainer has settings for.
_TRAINERS_OWN = {"batch_size": "per_device_train_batch_size", "num_workers": "dataloader_num_workers"}


@dataclass(frozen=True)
class PruneFirst:
    """The pruning that precedes the training.

    Attributes:
        model: The dense model: a Hub id, a folder, or ``sample``.
        config: Budget and method.
        data: Calibration images.
        statistics: File of statistics gathered earlier, in place of ``data``.
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
        keep_images: Whether to keep the decoded training images in memory.
    """

    train: DataRequest
    evaluation: DataRequest | None = None
    augmentation: str = "paper"
    keep_images: bool = False


@dataclass(frozen=True)
class Recipe:
    """All settings of a run.

    Attributes:
        output: Folder of the fine-tuned checkpoint.
        data: The images.
        model: The pruned checkpoint, a Hub id or a folder; not with ``prune``.
        prune: The pruning that precedes the training; not with ``model``.
        revision: Revision of ``model``.
        teacher: The model to learn from, by default the one that was pruned; ``"none"`` for labels alone.
        teacher_revision: Revision of ``teacher``.
        training: Fields of :class:`hf_vbp.distillation.arguments.DistillationArguments`.
        name: Name of the recipe in the results.
        files: The files that the recipe was read from.
        notes: Fields of the files that options of the command line replace.
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
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def arguments(self) -> "DistillationArguments":
        """Return the settings of the run, validated by transformers too.

        Raises:
            ConfigurationError: A setting is invalid, or settings contradict each other.
            MissingPackageError: A setting needs a package that is not installed.
        """
        from hf_vbp.distillation.arguments import DistillationArguments
        from hf_vbp.workflow.finetune.packages import check_packages

        # The reporter shows progress on standard error, so that standard output holds the results only.
        settings = {"output_dir": self.folder, "disable_tqdm": True, **self._epochwise(), **self.training}
        try:
            args = DistillationArguments(**settings)
            check_packages(args)
        except HfVbpError:
            raise
        except ImportError as error:
            raise missing_package(error, "The training section of the recipe") from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigurationError(f"Invalid training section of the recipe: {one_line(error)}") from error
        return args

    def _epochwise(self) -> Tree:
        settings: Tree = {"save_strategy": "epoch", "save_total_limit": 2, "logging_strategy": "steps"}
        if self.data.evaluation is not None:
            settings["eval_strategy"] = "epoch"
        return settings

    @property
    def folder(self) -> str:
        """Folder of the checkpoints of the run until it ends."""
        return str(self.training.get("output_dir") or f"{self.output}-run")

    def to_yaml(self) -> str:
        """Return the recipe as text, with overrides and with the defaults of the images, the optimizer and the loss.

        It holds no secrets: :func:`make_recipe` refuses them.
        """
        from hf_vbp.distillation.arguments import DistillationArguments

        optimizer = ("learning_rate", "weight_decay", "lr_scheduler_type", "per_device_train_batch_size")
        run = ("num_train_epochs", "seed", "hard_label_weight", "temperature", "soft_loss")
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
        tree["training"] = {**{name: defaults[name] for name in (*optimizer, *run)}, **self.training}
        tree["output"] = self.output
        return write_yaml(redacted(_without_none(tree)))


def load_recipe(parts: Sequence[str | Path], options: RecipeOptions | None = None) -> Recipe:
    """Read a recipe from files and overrides; later ones replace fields of earlier ones.

    Args:
        parts: Files that end in ``.yaml`` or ``.yml``, and overrides such as ``training.learning_rate=1e-4``. The
            first one may also be a pruned checkpoint, a folder or a Hub id; no file is needed then.
        options: Fields given as options, which replace those of the files.

    Raises:
        ConfigurationError: A file cannot be read, a field is unknown, missing or invalid, or an option contradicts
            an override.

    Example:
        >>> load_recipe(["recipes/deit-tiny/recipe.yaml", "training.num_train_epochs=1"])  # doctest: +SKIP
    """
    tree: Tree = {}
    overrides: Tree = {}
    names = []
    for position, part in enumerate(map(str, parts)):
        if part.endswith((".yaml", ".yml")):
            tree = merge(tree, read_yaml(part))
            names.append(Path(part).parent.name if Path(part).stem == "recipe" else Path(part).stem)
        elif position == 0 and "=" not in part:
            _check_checkpoint(part)
            tree = {"model": part}
        else:
            override = read_override(part)
            tree, overrides = merge(tree, override), merge(overrides, override)
    tree, notes = apply_options(tree, overrides, options or RecipeOptions())
    files = tuple(part for part in map(str, parts) if part.endswith((".yaml", ".yml")))
    recipe = make_recipe(tree, name=names[0] if names else "defaults")
    return replace(recipe, files=files, notes=tuple(notes))


def _check_checkpoint(part: str) -> None:
    path = Path(part).expanduser()
    if path.exists() and not path.is_dir():
        found = missing_or_special(path) or f"it is {content_of(path) or 'a file'}"
        raise ConfigurationError(
            f"{part} is neither a recipe nor a checkpoint: {found}. Give a file that ends in .yaml or .yml, or the "
            "folder or Hub id of a pruned checkpoint."
        )


def make_recipe(tree: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """Check the fields of a recipe.

    Args:
        tree: The fields, as read from YAML.
        name: Name of the recipe in the results.

    Raises:
        ConfigurationError: A field is unknown, missing or invalid, or holds a secret.
    """
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"The recipe is {shown(tree)}; expected fields such as `output: recovered`.")
    known = ["output", "data", "model", "prune", "revision", "teacher", "teacher_revision", "training"]
    check_names(tree, known, "")
    check_secrets(tree)
    if (tree.get("model") is None) == (tree.get("prune") is None):
        raise ConfigurationError(
            "A recipe starts from a pruned checkpoint (`model: FOLDER`) or prunes first (`prune:` with `model` and "
            f"`ratio` below it); this one has {'both' if tree.get('model') is not None else 'neither'}."
        )
    texts = {key: check_type(tree.get(key), str, key) for key in known if key not in ("data", "prune", "training")}
    if not texts["output"]:
        raise ConfigurationError("The recipe has no output: set it (or pass --output) to the folder to write.")
    return Recipe(
        **{key: value for key, value in texts.items() if value is not None},
        data=_data(section_of(tree, "data")),
        prune=_prune(section_of(tree, "prune")) if tree.get("prune") is not None else None,
        training=_training(section_of(tree, "training")),
        name=name,
    )


def _data(tree: Tree) -> TrainingData:
    check_names(tree, [entry.name for entry in fields(TrainingData)], "data")
    train_tree = section_of(tree, "train", label="data.train")
    if not train_tree:
        raise ConfigurationError("The recipe has no data.train: set data.train.source (or pass --data) to the images.")
    for name, right in _TRAINERS_OWN.items():
        if name in train_tree:
            raise ConfigurationError(f"data.train.{name} would have no effect: set training.{right}.")
    train = _request(train_tree, "data.train")
    evaluation = tree.get("evaluation")
    augmentation = check_type(tree.get("augmentation", "paper"), str, "data.augmentation")
    if augmentation not in AUGMENTATIONS:
        raise ConfigurationError(
            f"data.augmentation is {shown(augmentation)}; expected one of {', '.join(AUGMENTATIONS)}."
        )
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
    check_names(tree, [*own, *config, "preset"], "prune")
    if tree.get("data") is None and tree.get("statistics") is None:
        raise ConfigurationError("prune has neither data nor statistics: set one of them to calibrate on.")
    model = check_type(tree.get("model"), str, "prune.model")
    if model is None:
        raise ConfigurationError("prune has no model: set it to the model to prune.")
    statistics = check_type(tree.get("statistics"), str, "prune.statistics")
    return PruneFirst(
        model=model,
        config=_prune_config({key: tree[key] for key in (*config, "preset") if key in tree}),
        data=_request(section_of(tree, "data", label="prune.data"), "prune.data") if tree.get("data") else None,
        statistics=None if statistics is None else Path(statistics),
        revision=check_type(tree.get("revision"), str, "prune.revision"),
    )


def _prune_config(tree: Tree) -> VBPConfig:
    settings = _typed({name: value for name, value in tree.items() if name != "preset"}, VBPConfig, "prune")
    if tree.get("preset") is not None:
        settings["preset"] = check_type(tree["preset"], str, "prune.preset")
    config = VBPConfig.from_dict(settings)
    if not config.has_budget:
        raise ConfigurationError(f"prune has no budget: set one of {', '.join(BUDGETS)}, for instance `ratio: 0.5`.")
    return config


def _request(tree: Tree, label: str) -> DataRequest:
    check_names(tree, [entry.name for entry in fields(DataRequest)], label)
    if not tree.get("source"):
        raise ConfigurationError(
            f"{label} has no source: expected a Hub data set, an image folder, tar shards or sample."
        )
    return DataRequest(**_typed(tree, DataRequest, label))


def _training(tree: Tree) -> Tree:
    from hf_vbp.distillation.arguments import DistillationArguments

    known = [entry.name for entry in fields(DistillationArguments) if entry.init]
    check_names(tree, known, "training")
    return _typed(tree, DistillationArguments, "training")


def _typed(tree: Tree, owner: Any, section: str) -> Tree:
    """Return the fields of a section, of the types that their owner declares; an empty field is the default."""
    hints = get_type_hints(owner)
    defaults = {entry.name: entry.default for entry in fields(owner)}
    typed = {}
    for name, value in tree.items():
        label, options = f"{section}.{name}", _options(hints[name])
        if value is None and NoneType not in options:
            continue
        if get_origin(hints[name]) is Literal and value not in options:
            raise ConfigurationError(f"{label} is {shown(value)}; expected one of {', '.join(map(str, options))}.")
        if any(get_origin(option) is Literal and value in get_args(option) for option in options):
            # One of the words that a field of another type takes, such as "auto".
            typed[name] = value
            continue
        typed[name] = check_type(value, _expected(options, defaults[name]), label)
        check_range(typed[name], name, label)
    return typed


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or (hint,)


def _expected(options: tuple[Any, ...], default: Any) -> Any:
    """Return the one plain type that a field takes, None where it takes several."""
    options = tuple(option for option in options if option is not NoneType and get_origin(option) is not Literal)
    if len(options) == 1 and options[0] in (bool, int, float, str):
        return options[0]
    if options and all(isinstance(option, str) for option in options):
        return str
    return type(default) if default not in (None, MISSING) and len(options) == 1 else None


def _as_tree(request: DataRequest | None) -> Tree | None:
    if request is None:
        return None
    return {entry.name: getattr(request, entry.name) for entry in fields(request)}


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
