"""The options of the budget: how much to remove or keep, by which levers, and how latency is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from hf_vbp.cli.groups import BUDGET, LATENCY, MethodOptions, flags_of
from hf_vbp.cli.values import read_latency
from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.costs.latency import LatencyOptions


@dataclass(frozen=True)
class BudgetOptions:
    """How much to remove, or to keep, exactly one of them; and by which levers."""

    panel: ClassVar[str] = BUDGET

    ratio: Annotated[float | None, typer.Option(help="Share of hidden neurons to remove, in (0, 1).")] = None
    target_parameters: Annotated[float | None, typer.Option(help="Share of the parameters to keep, in (0, 1).")] = None
    target_macs: Annotated[float | None, typer.Option(help="Share of the MACs to keep, in (0, 1).")] = None
    target_latency: Annotated[
        str | None, typer.Option(help="Latency on this device to keep: a share in (0, 1), or a time such as 12ms.")
    ] = None

    levers: Annotated[
        str | None,
        typer.Option(
            help="mlp (narrower MLPs), tokens (merged tokens), or mlp,tokens.",
            show_default="both for MACs and latency where the model allows it, else mlp",
        ),
    ] = None
    merge_tokens: Annotated[
        int | None,
        typer.Option(help="Merge this many tokens before every block but the first.", min=0, show_default="measured"),
    ] = None

    @property
    def flags(self) -> list[str]:
        """The flags that were given."""
        return flags_of(self)

    @property
    def budgets(self) -> list[str]:
        """The flags of budgets that were given."""
        return [flag for flag in self.flags if flag not in ("--levers", "--merge-tokens")]

    def config(self, method: MethodOptions, conditions: "LatencyConditions") -> "VBPConfig":
        """Return the configuration; raises the errors of :class:`hf_vbp.VBPConfig`.

        Args:
            method: The method.
            conditions: How a latency budget is measured.
        """
        if len(self.budgets) != 1:
            options = "--ratio, --target-parameters, --target-macs, --target-latency"
            raise ConfigurationError(f"Give exactly one budget of {options}; got {', '.join(self.budgets) or 'none'}.")
        levers = None if self.levers is None else tuple(name.strip() for name in self.levers.split(","))
        asked: dict[str, Any] = {**vars(self), "target_latency": read_latency(self.target_latency), "levers": levers}
        return method.config(**asked, **(conditions.of_budget if self.target_latency is not None else {}))


@dataclass(frozen=True)
class LatencyConditions:
    """How latency is measured, for --latency and --target-latency."""

    panel: ClassVar[str] = LATENCY

    latency_batch: Annotated[list[int] | None, typer.Option(help="Images per pass.", min=1)] = None
    latency_dtype: Annotated[
        str | None, typer.Option(help="Dtype to measure in.", show_default="that of the model")
    ] = None
    latency_compile: Annotated[
        bool, typer.Option("--latency-compile", help="Measure models compiled by torch.compile.")
    ] = False
    threads: Annotated[int | None, typer.Option(help="Threads of the CPU.", min=1)] = None
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
                batch=batch,
                dtype=self.latency_dtype,
                compile=self.latency_compile,
                threads=self.threads,
                precision=self.latency_precision,
            )
            for batch in self.latency_batch or default
        ]

    def single(self) -> "LatencyOptions":
        """Return the conditions of a measurement at one batch size.

        Raises:
            ConfigurationError: Several batch sizes were given.
        """
        return self.options((self.budget_batch,))[0]

    @property
    def of_budget(self) -> dict[str, Any]:
        """The fields of the configuration of a latency budget."""
        names = ("latency_precision", "latency_dtype", "latency_compile")
        return {"latency_batch": self.budget_batch, **{name: getattr(self, name) for name in names}}

    @property
    def budget_batch(self) -> int:
        """The one batch size.

        Raises:
            ConfigurationError: Several were given.
        """
        batches = self.latency_batch or [1]
        if len(batches) > 1:
            raise ConfigurationError(f"Give --latency-batch once here; got {', '.join(map(str, batches))}.")
        return batches[0]


@dataclass(frozen=True)
class SeveralBatches(LatencyConditions):
    """The same, at several batch sizes."""

    latency_batch: Annotated[
        list[int] | None,
        typer.Option(help="Images per pass; may be repeated for --latency (1 and 16 by default).", min=1),
    ] = None
