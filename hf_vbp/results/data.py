"""The section ``data``: the images of each step."""

from typing import Any, NotRequired, TypedDict

from hf_vbp.results.figures import Count, PositiveCount, open_section


@open_section
class DataSource(TypedDict):
    """Where images come from, and how they were chosen and prepared."""

    source: str
    kind: NotRequired[str]
    split: NotRequired[str]
    revision: NotRequired[str]
    fingerprint: NotRequired[str]
    images: NotRequired[PositiveCount]
    tokens: NotRequired[PositiveCount]
    available: NotRequired[Count]
    limit: NotRequired[PositiveCount]
    seed: NotRequired[int]
    labels: NotRequired[str]
    processor: NotRequired[dict[str, Any]]
    skipped: NotRequired[Count]
    skipped_names: NotRequired[list[str]]


class Data(TypedDict, total=False):
    """The images of each step."""

    calibration: DataSource
    evaluation: DataSource
    bank: DataSource
    finetuning: DataSource
