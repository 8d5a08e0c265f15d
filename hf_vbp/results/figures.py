"""The kinds of values in ``vbp_results.json``: numbers with bounds, and sections.

The sections are ``TypedDict`` classes of these kinds. :mod:`hf_vbp.results.json_schema` generates the JSON schema from
them, and :mod:`hf_vbp.results.checks` checks a file against them.
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

Section = TypeVar("Section")


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number.

    Attributes:
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
        above: Every allowed value is larger than this one.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None


@dataclass(frozen=True)
class Length:
    """Exact number of items of a list."""

    items: int


Fraction = Annotated[float, Bounds(minimum=0, maximum=1)]
"""A share, never percent."""
NonNegative = Annotated[float, Bounds(minimum=0)]
Positive = Annotated[float, Bounds(above=0)]
Count = Annotated[int, Bounds(minimum=0)]
PositiveCount = Annotated[int, Bounds(minimum=1)]
Interval = Annotated[list[Fraction], Length(2)]


def open_section(section: type[Section]) -> type[Section]:
    """Allow further keys in a section: details that depend on the images, the device or the recipe."""
    section.__open_section__ = True  # type: ignore[attr-defined]
    return section


def is_open(section: type) -> bool:
    """Return whether a section may have further keys."""
    return bool(getattr(section, "__open_section__", False))
