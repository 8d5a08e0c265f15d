"""One entry of the zoo: a tiny model, its inputs, and the MLPs that should be found in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import torch

from .randomise import randomise, settle

KINDS = (
    "logits",
    "multi_label",
    "regression",
    "queries",
    "pixel_classes",
    "depth",
    "feature_maps",
    "tokens",
    "embeddings",
    "pooled",
    "masks",
    "boxes",
    "heat_maps",
)


class Build(Protocol):
    """Makes the model; every call gives the same weights."""

    def __call__(self) -> Any: ...


class Batch(Protocol):
    """Makes the inputs of ``n`` images, from image ``start`` on."""

    def __call__(self, n: int, seed: int = 0, start: int = 0) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Site:
    """One MLP: the names of its modules in the model, and how it is laid out."""

    parent: str
    """The module that owns the MLP."""
    ups: tuple[str, ...]
    """One projection, or two whose outputs are multiplied."""
    down: str
    kind: str = "Linear"
    """``Linear``, ``Conv2d`` (1x1) or ``Conv1D`` (transposed weight)."""
    packed: bool = False
    """The only up projection gives both halves of a gated MLP, so it is twice as wide."""
    between: tuple[str, ...] = ()
    """Modules with one entry per neuron between ups and down: depthwise convolution, BatchNorm, GRN, LayerNorm."""
    behind: str | None = None
    """A BatchNorm after down, whose running mean can serve as the bias."""
    bias: bool = True
    """Whether down has a bias."""
    mixes: bool = False
    """Something in between mixes neurons (GRN, LayerNorm), so that removing constants changes the others."""
    calls: int = 1
    """How often one forward pass runs it."""
    used: bool = True
    """Whether the output of the task depends on it."""


@dataclass(frozen=True)
class Family:
    """A model class with everything that a test of the class needs."""

    name: str
    """The class, and a variant after a hyphen. Unique."""
    build: Build
    batch: Batch
    kind: str
    output: str
    """The field of the model's output that ``kind`` describes."""
    sites: tuple[Site, ...]
    notes: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """MLPs that must not be found: a prefix of the names of their modules, and the reason."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Further fields of the output, and their kinds."""
    deterministic: bool = True
    """Whether the same inputs always give the same outputs."""
    needs: str | None = None
    """A package beyond those of the library, without which the class cannot be built."""
    lengths: Callable[[dict[str, Any]], list[int]] | None = None
    """For packed outputs, whose first axis does not count images: how many rows each image of the batch has."""

    def __post_init__(self) -> None:
        for kind in (self.kind, *self.also.values()):
            if kind not in KINDS:
                raise ValueError(f"{self.name}: kind {kind!r} is none of {', '.join(KINDS)}")

    @property
    def class_name(self) -> str:
        """The name of the model class."""
        return self.name.partition("-")[0]

    def outputs(self, output: Any) -> list[torch.Tensor]:
        """The tensors that ``kind`` and ``also`` describe: usually one, several for feature maps."""
        tensors: list[torch.Tensor] = []
        for name in (self.output, *self.also):
            found = output[name]
            tensors += [found] if isinstance(found, torch.Tensor) else list(found)
        return tensors


def of(model: str, config: str, *, seed: int = 0, **options: Any) -> Build:
    """Build ``transformers.<model>`` from ``transformers.<config>(**options)``, randomised, in eval mode.

    A class that transformers does not offer at the top is given as ``module.Class``, with the module below
    ``transformers.models``. Options that are functions are called first, so that no config is made at import.
    """

    def build() -> Any:
        made_config = nested(config, **options)()
        module, _, name = (
            f"transformers.models.{model}".rpartition(".") if "." in model else ("transformers", "", model)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = getattr(import_module(module), name)(made_config)
        return randomise(found.float().eval(), seed)

    return build


def settled(build: Build, batch: Batch) -> Build:
    """Build with the statistics of BatchNorm near those of 16 images."""
    return lambda: settle(build(), batch(16, seed=1))


def nested(name: str, **options: Any) -> Callable[[], Any]:
    """A nested config for ``of``, made when it is needed."""

    def make() -> Any:
        import transformers

        return getattr(transformers, name)(
            **{key: value() if callable(value) else value for key, value in options.items()}
        )

    return make


def mlps(
    pattern: str,
    counts: Sequence[int | tuple[int, ...]] | int = 1,
    ups: str = "fc1",
    down: str = "fc2",
    *,
    between: str = "",
    behind: str | None = None,
    **layout: Any,
) -> tuple[Site, ...]:
    """The sites of repeated blocks.

    ``pattern`` names the parent. With one ``{}`` in it, ``counts`` is the number of blocks; with two, stage and block,
    it is the number of blocks of each stage, or the list of the pairs. The other names are relative to the parent,
    separated by spaces.
    """

    def names(parent: str, relative: str) -> tuple[str, ...]:
        return tuple(f"{parent}.{name}".lstrip(".") for name in relative.split())

    return tuple(
        Site(
            parent=parent,
            ups=names(parent, ups),
            down=names(parent, down)[0],
            between=names(parent, between),
            behind=names(parent, behind)[0] if behind else None,
            **layout,
        )
        for parent in _parents(pattern, counts)
    )


def _parents(pattern: str, counts: Sequence[int | tuple[int, ...]] | int) -> Iterator[str]:
    if "{}" not in pattern:
        yield pattern
    elif isinstance(counts, int):
        yield from (pattern.format(block) for block in range(counts))
    else:
        for stage, count in enumerate(counts):
            if isinstance(count, tuple):
                yield pattern.format(*count)
            else:
                yield from (pattern.format(stage, block) for block in range(count))
