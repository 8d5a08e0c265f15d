"""The section ``statistics``: how they were gathered, and the agreement between halves of the images."""

from typing import Annotated, NotRequired, TypedDict

from hf_vbp.results.figures import Count, Fraction, Length, open_section


class Overlap(TypedDict):
    """Neurons that both halves of the images keep, and remove, at one ratio."""

    ratio: Fraction
    kept: Fraction
    pruned: Fraction


@open_section
class Halves(TypedDict):
    """Agreement between the variances of the two halves of the images."""

    tokens: NotRequired[Annotated[list[Count], Length(2)]]
    rank_correlation: float
    lowest_site: NotRequired[str]
    lowest_site_rank_correlation: NotRequired[float]
    overlaps: NotRequired[list[Overlap]]


@open_section
class Statistics(TypedDict, total=False):
    """How the statistics were gathered."""

    moments: str
    dtype: str
    halves: Halves
