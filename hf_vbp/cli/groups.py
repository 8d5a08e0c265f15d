"""Options that several commands share, defined once; a command receives a group of them as one object."""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from hf_vbp.cli.values import read_multiple, read_options
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.workflow.loading import Loading
    from hf_vbp.workflow.requests import DataRequest

MODEL_HELP = "A Hub id, a folder with a checkpoint, or 'sample'."
DATA_HELP = "A Hub data set (name[:config]), an image folder, tar shards, or 'sample'."

# Listed here and not read from the registry, which would import torch; a test compares the two.
CRITERIA = "magnitude, obs, random, snip, variance, weighted-variance"
COMPENSATIONS = "linear, mean, none"

# The panels of --help, in the order in which they are shown.
MODEL, IMAGES, EVALUATION, LATENCY = "Model", "Images", "Evaluation", "Latency"
STATISTICS, METHOD, BUDGET, TRAINING, HUB, OUTPUT = "Statistics", "Method", "Budget", "Training", "Hub", "Output"
PAGE = "Page"

# -h everywhere: contexts inherit it from the root.
HELP = {"help_option_names": ["-h", "--help"]}


def expanded(path: Path | None) -> Path | None:
    """Return a path with ``~`` replaced, which shells do not do in ``--output=~/x``."""
    return None if path is None else path.expanduser()


def option(panel: str, *names: str, help: str, **settings: Any) -> Any:
    """Return an option of the command line that ``--help`` shows in a panel."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


def import_modules(names: list[str] | None) -> list[str] | None:
    """Import modules that register criteria, compensations or adapters, as soon as the option is read.

    Modules are found on the path of Python and in the current folder.

    Raises:
        ConfigurationError: A module cannot be imported, or raised an error.
    """
    for name in names or ():
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        with named_in_errors(f"--import {name}: the module"):
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ConfigurationError(
                    f"--import {name}: {error}. Name a module in the current folder or on PYTHONPATH, without .py."
                ) from error
    return names


Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Data = Annotated[str, option(IMAGES, "--data", help=f"Calibration images; labels are not needed. {DATA_HELP}")]
OptionalData = Annotated[
    str | None, option(IMAGES, "--data", help=f"Calibration images; labels are not needed. {DATA_HELP}")
]
LabelledData = Annotated[str, option(IMAGES, "--data", help=f"Images, labelled for models with classes. {DATA_HELP}")]
EvalData = Annotated[str, option(EVALUATION, "--eval-data", help=f"Labelled images to evaluate on. {DATA_HELP}")]
OptionalEvalData = Annotated[
    str | None, option(EVALUATION, "--eval-data", help=f"Images to evaluate on, labelled for classes. {DATA_HELP}")
]
Output = Annotated[Path, option(OUTPUT, "--output", "-o", help="Where to write.", callback=expanded)]
OptionalOutput = Annotated[Path | None, option(OUTPUT, "--output", "-o", help="Where to write.", callback=expanded)]
Overwrite = Annotated[bool, option(OUTPUT, "--overwrite", help="Replace the files that hf-vbp wrote at the output.")]
Json = Annotated[bool, option(OUTPUT, "--json", help="Print only JSON on standard output.")]
Quiet = Annotated[bool, option(OUTPUT, "--quiet", "-q", help="Show no progress.")]
# For scripts/prune.py, which gathers statistics in a command before this one.
CheckOptions = Annotated[
    bool, option(OUTPUT, "--check-options", help="Check the options and end, without running.", hidden=True)
]
TrustRemoteCode = Annotated[
    bool,
    option(
        HUB,
        "--trust-remote-code",
        help="Also run code of the checkpoint that is not a version of the file of hf_vbp.",
    ),
]
InterpolatePosEncoding = Annotated[
    bool, option(MODEL, "--interpolate-pos-encoding", help="Adapt the model to the size of its image processor.")
]
Device = Annotated[str | None, option(MODEL, "--device", help="Device of the computation, such as cuda or cpu.")]
CacheDir = Annotated[
    Path | None,
    option(HUB, "--cache-dir", help="Cache of Hub files; by default huggingface_hub's.", callback=expanded),
]
Import = Annotated[
    list[str] | None,
    option(
        MODEL,
        "--import",
        help="Import a module that registers adapters, criteria or compensations; may be repeated.",
        metavar="MODULE",
        callback=import_modules,
    ),
]


@dataclass(frozen=True)
class SourceOptions:
    """Where the model is loaded from."""

    panel: ClassVar[str] = MODEL

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")] = None
    cache_dir: Annotated[
        Path | None, typer.Option(help="Cache of Hub files; by default huggingface_hub's.", callback=expanded)
    ] = None
    interpolate_pos_encoding: InterpolatePosEncoding = False
    import_: Import = None

    def loading(self) -> "Loading":
        """Return how the model is loaded."""
        from hf_vbp.workflow.loading import Loading

        return Loading(**{name: value for name, value in vars(self).items() if name != "import_"})


@dataclass(frozen=True)
class ModelOptions(SourceOptions):
    """How the model is loaded."""

    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    device: Annotated[str | None, typer.Option(help="Device of the computation, such as cuda or cpu.")] = None


@dataclass(frozen=True)
class ImageOptions:
    """How images are read; the same for calibration and evaluation."""

    panel: ClassVar[str] = IMAGES

    split: Annotated[str | None, typer.Option(help="Split of the data set in --data.")] = None
    data_revision: Annotated[str | None, typer.Option(help="Revision of the data set on the Hub.")] = None
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where it is ambiguous.")] = None
    label_column: Annotated[str | None, typer.Option(help="Column of the labels, where it is ambiguous.")] = None
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Stream the data set instead of downloading it first.")
    ] = False
    limit: Annotated[int | None, typer.Option(help="Use at most this many images of --data.", min=1)] = None
    seed: Annotated[
        int | None, typer.Option(help="Seed of the order in which images are drawn.", min=0, max=2**32 - 1)
    ] = None
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 32
    num_workers: Annotated[int, typer.Option(help="Processes that decode images.", min=0)] = 0
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="Stop at an image that cannot be decoded, or count and skip it.")
    ] = "error"

    def request(self, source: str) -> "DataRequest":
        """Return the request for the images of ``source``."""
        from hf_vbp.workflow.requests import DataRequest

        values = dict(vars(self))
        return DataRequest(source=source, revision=values.pop("data_revision"), **values)


@dataclass(frozen=True)
class EvaluationOptions:
    """Which part of the evaluation images is used."""

    panel: ClassVar[str] = EVALUATION

    eval_split: Annotated[str | None, typer.Option(help="Split of the data set in --eval-data.")] = None
    eval_limit: Annotated[int | None, typer.Option(help="Use at most this many images of --eval-data.", min=1)] = None

    def request(self, source: str, images: ImageOptions) -> "DataRequest":
        """Return the request for the evaluation images, read as the calibration images are."""
        return images.request(source).for_evaluation(source, self.eval_split, self.eval_limit)


@dataclass(frozen=True)
class MethodOptions:
    """How neurons are scored and how the kept weights are compensated."""

    panel: ClassVar[str] = METHOD

    preset: Annotated[str, typer.Option(help="best, or paper for exactly the paper's method.")] = "best"
    criterion: Annotated[
        str | None,
        typer.Option(help=f"How neurons are scored: {CRITERIA}, or a registered name.", show_default="of the preset"),
    ] = None
    compensation: Annotated[
        str | None,
        typer.Option(
            help=f"How the kept weights are adjusted: {COMPENSATIONS}, or a registered name.",
            show_default="of the preset",
        ),
    ] = None
    criterion_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the criterion; may be repeated.")
    ] = None
    compensation_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the compensation; may be repeated.")
    ] = None
    scope: Annotated[str, typer.Option(help="global, or layer for equal widths, which plain transformers loads.")] = (
        "global"
    )
    minimum_width: Annotated[int, typer.Option(help="Neurons that every MLP keeps.", min=0)] = 1
    round_to: Annotated[
        str | None,
        typer.Option(
            help="Round widths to a multiple of this; auto measures which one is fastest on this device.",
            show_default="auto for --target-latency, else 1",
        ),
    ] = None

    @property
    def flags(self) -> list[str]:
        """The flags whose values differ from the defaults."""
        return flags_of(self)

    def config(self, **budget: Any) -> "VBPConfig":
        """Return the configuration; raises the errors of :class:`hf_vbp.VBPConfig`.

        Args:
            budget: Fields of the budget; none for gathering statistics and for sweeps.
        """
        from hf_vbp.config.vbp_config import VBPConfig

        given = {
            "criterion": self.criterion,
            "compensation": self.compensation,
            "criterion_options": read_options("--criterion-option", self.criterion_option),
            "compensation_options": read_options("--compensation-option", self.compensation_option),
            "round_to": read_multiple(self.round_to),
        }
        return VBPConfig.preset(
            self.preset,
            scope=self.scope,
            minimum_width=self.minimum_width,
            **{name: value for name, value in {**given, **budget}.items() if value is not None},
        )


def flags_of(group: Any) -> list[str]:
    """Return the flags of a group of options whose values differ from their defaults."""
    return [f"--{f.name.replace('_', '-')}" for f in fields(group) if getattr(group, f.name) != f.default]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the parameters of a command that are dataclasses into one option for each of their fields.

    Typer reads one option per parameter and has no groups; this gives it a signature with every field, and gives the
    command the objects. ``--help`` shows the options of a dataclass in the panel that it names.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        group = hints[parameter.name]
        if is_dataclass(group):
            groups[parameter.name] = group
            parameters.extend(_parameters_of(group))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=group))

    signature = inspect.Signature(parameters)

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        # Typer gives every option; from Python those that are left out take their defaults, as in any function.
        bound = signature.bind(**given)
        bound.apply_defaults()
        values = bound.arguments
        made = {
            name: cls(**{entry.name: values.pop(entry.name) for entry in fields(cls)}) for name, cls in groups.items()
        }
        command(**values, **made)

    spread.__signature__ = signature  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for entry in fields(group):
        (setting,) = hints[entry.name].__metadata__
        setting.rich_help_panel = group.panel
    return [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=hints[entry.name],
        )
        for entry in fields(group)
    ]
