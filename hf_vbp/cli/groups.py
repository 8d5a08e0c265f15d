"""Groups of options that several commands share, each said once and handed to a command as one object."""

import functools
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.costs.latency import LatencyOptions
    from hf_vbp.workflow.requests import DataRequest

MODEL_HELP = "A Hub id, a folder with a checkpoint, or 'sample'."
DATA_HELP = "A Hub data set (name[:config]), an image folder, tar shards, or 'sample'."

# Named here and not read from the registry, which would import torch; a test holds the two together.
CRITERIA = "magnitude, obs, random, snip, variance, weighted-variance"

Model = Annotated[str, typer.Argument(help=MODEL_HELP, show_default=False)]
Data = Annotated[str, typer.Option("--data", help=f"Calibration images, no labels needed. {DATA_HELP}")]
OptionalData = Annotated[str | None, typer.Option("--data", help=f"Calibration images, no labels needed. {DATA_HELP}")]
LabelledData = Annotated[str, typer.Option("--data", help=f"Labelled images. {DATA_HELP}")]
EvalData = Annotated[str, typer.Option("--eval-data", help=f"Labelled images to evaluate on. {DATA_HELP}")]


def expanded(path: Path | None) -> Path | None:
    """Return a path with ``~`` replaced, which shells do not do in ``--output=~/x``."""
    return None if path is None else path.expanduser()


Output = Annotated[Path, typer.Option("--output", "-o", callback=expanded, help="Where to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what hf-vbp wrote at the output.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, alone, on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")]


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded."""

    revision: Revision = None
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda or cpu.")] = None


@dataclass(frozen=True)
class ImageOptions:
    """How images are read; the same for calibration and evaluation."""

    split: Annotated[str | None, typer.Option(help="Split of the data set named by --data.")] = None
    data_revision: Annotated[str | None, typer.Option(help="Revision of the data set on the Hub.")] = None
    image_column: Annotated[str | None, typer.Option(help="Column of the images, where it cannot be guessed.")] = None
    label_column: Annotated[str | None, typer.Option(help="Column of the labels, where it cannot be guessed.")] = None
    streaming: Annotated[bool, typer.Option("--streaming", help="Stream the data set, do not download it.")] = False
    limit: Annotated[int | None, typer.Option(help="Use at most this many images of --data.", min=1)] = None
    seed: Annotated[int | None, typer.Option(help="Seed of the order in which images are drawn.")] = None
    batch_size: Annotated[int, typer.Option(help="Images per batch.", min=1)] = 32
    num_workers: Annotated[int, typer.Option(help="Processes that decode images.", min=0)] = 0
    on_bad_image: Annotated[
        Literal["error", "skip"], typer.Option(help="Stop at an image that cannot be decoded, or count and skip it.")
    ] = "error"

    def request(self, source: str) -> "DataRequest":
        """Return the request for the images of ``source``."""
        from hf_vbp.workflow.requests import DataRequest

        return DataRequest(
            source=source,
            split=self.split,
            revision=self.data_revision,
            image_column=self.image_column,
            label_column=self.label_column,
            streaming=self.streaming,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            limit=self.limit,
            seed=self.seed,
            on_bad_image=self.on_bad_image,
        )


@dataclass(frozen=True)
class EvaluationOptions:
    """Which part of the evaluation images is used."""

    eval_split: Annotated[str | None, typer.Option(help="Split of the data set named by --eval-data.")] = None
    eval_limit: Annotated[int | None, typer.Option(help="Use at most this many images of --eval-data.", min=1)] = None

    def request(self, source: str, images: ImageOptions) -> "DataRequest":
        """Return the request for the evaluation images, read as the calibration images are."""
        return images.request(source).for_evaluation(source, self.eval_split, self.eval_limit)


@dataclass(frozen=True)
class MethodOptions:
    """How neurons are scored and how the kept weights are compensated."""

    preset: Annotated[str, typer.Option(help="best, or paper for exactly the paper's method.")] = "best"
    criterion: Annotated[
        str | None, typer.Option(help=f"What scores the neurons: {CRITERIA}, or a registered one.")
    ] = None
    compensation: Annotated[
        str | None, typer.Option(help="How the kept weights are adjusted: none, mean, linear, or a registered one.")
    ] = None
    criterion_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the criterion; may be repeated.")
    ] = None
    compensation_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the compensation; may be repeated.")
    ] = None
    scope: Annotated[str, typer.Option(help="global, or layer for equal sites and stock loading.")] = "global"
    minimum_width: Annotated[int, typer.Option(help="Neurons that every MLP keeps.", min=0)] = 1
    round_to: Annotated[int, typer.Option(help="Round widths to a multiple of this.", min=1)] = 1
    import_: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import a module that registers methods; may be repeated."),
    ] = None

    def config(self, **budget: float | str | None) -> "VBPConfig":
        """Return the configuration; raises what :class:`hf_vbp.VBPConfig` raises.

        Args:
            budget: Fields of the budget; none for gathering statistics and for sweeps.
        """
        from hf_vbp.config.vbp_config import VBPConfig

        import_modules(self.import_ or ())
        given = {
            "criterion": self.criterion,
            "compensation": self.compensation,
            "criterion_options": read_options("--criterion-option", self.criterion_option),
            "compensation_options": read_options("--compensation-option", self.compensation_option),
        }
        return VBPConfig.preset(
            self.preset,
            scope=self.scope,
            minimum_width=self.minimum_width,
            round_to=self.round_to,
            **{name: value for name, value in {**given, **budget}.items() if value is not None},
        )


def read_options(flag: str, texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Read options of the form ``NAME=VALUE``; a value is JSON where it can be, else text.

    Raises:
        ConfigurationError: A text has another form, or a name stands twice.
    """
    if not texts:
        return None
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in values:
            raise ConfigurationError(f"{flag} takes NAME=VALUE, each name once; got {text!r}.")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register criteria, compensations or adapters.

    Modules are found on the path of Python and in the current folder.

    Raises:
        ConfigurationError: A module cannot be imported.
    """
    for name in names:
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(
                f"--import {name}: {error}. Name a module in the current folder or on PYTHONPATH, without .py."
            ) from error


@dataclass(frozen=True)
class BudgetOptions:
    """How much to remove, or to keep; exactly one of them."""

    ratio: Annotated[float | None, typer.Option(help="Share of hidden neurons to remove, in (0, 1).")] = None
    target_parameters: Annotated[float | None, typer.Option(help="Share of the parameters to keep, in (0, 1).")] = None
    target_macs: Annotated[float | None, typer.Option(help="Share of the MACs to keep, in (0, 1).")] = None
    target_latency: Annotated[
        str | None, typer.Option(help="Latency on this device to keep: a share in (0, 1), or a time such as 12ms.")
    ] = None

    def config(self, method: MethodOptions, conditions: "LatencyConditions | None" = None) -> "VBPConfig":
        """Return the configuration; raises what :class:`hf_vbp.VBPConfig` raises.

        Args:
            method: The method.
            conditions: How a latency budget is measured.
        """
        flags = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items() if value is not None}
        if len(flags) != 1:
            options = "--ratio, --target-parameters, --target-macs, --target-latency"
            raise ConfigurationError(f"Give exactly one budget of {options}; got {', '.join(flags) or 'none'}.")
        asked = {**vars(self), "target_latency": read_latency(self.target_latency)}
        batch = conditions.budget_batch if conditions is not None and self.target_latency is not None else 1
        return method.config(**asked, latency_batch=batch)

    @property
    def given(self) -> bool:
        """Whether a budget was given."""
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class LatencyConditions:
    """How latency is measured, for --latency and --target-latency."""

    latency_batch: Annotated[
        list[int] | None, typer.Option(help="Images per pass of a measured latency; may be repeated.", min=1)
    ] = None
    latency_dtype: Annotated[str | None, typer.Option(help="Dtype of --latency, by default that of the model.")] = None
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU while latency is measured.", min=1)] = None
    latency_precision: Annotated[
        float, typer.Option(help="Repeat until the 95 % interval of the speed-up is this share of it to either side.")
    ] = 0.03

    def options(self, default: Sequence[int] = (1,)) -> "list[LatencyOptions]":
        """Return the conditions, one per batch size.

        Args:
            default: The batch sizes where none was given.
        """
        from hf_vbp.costs.latency import LatencyOptions

        return [
            LatencyOptions(
                batch=batch, dtype=self.latency_dtype, threads=self.threads, precision=self.latency_precision
            )
            for batch in self.latency_batch or default
        ]

    @property
    def budget_batch(self) -> int:
        """Images per pass when a latency budget is measured.

        Raises:
            ConfigurationError: Several were given.
        """
        batches = self.latency_batch or [1]
        if len(batches) > 1:
            raise ConfigurationError(f"A latency budget needs one --latency-batch; got {batches}.")
        return batches[0]


def read_latency(text: str | None) -> float | str | None:
    """Return a share as a number, and a time such as ``12ms`` as it is."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the parameters of a command that are dataclasses into options of their own.

    Typer reads one option per parameter and has no groups; this gives it a signature with every field, and the
    command its objects.
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

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        made = {
            name: cls(**{entry.name: values.pop(entry.name) for entry in fields(cls)}) for name, cls in groups.items()
        }
        command(**values, **made)

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if entry.default is MISSING else entry.default,
            annotation=hints[entry.name],
        )
        for entry in fields(group)
    ]
