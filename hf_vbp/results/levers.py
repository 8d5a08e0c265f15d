"""The section for a model that uses two levers: dense, narrower MLPs alone, merged tokens alone, and both."""

from typing import Annotated, Literal, NotRequired, TypedDict

from hf_vbp.results.figures import Count, Fraction, Interval, Positive, PositiveCount, open_section


@open_section
class LeverLatency(TypedDict):
    """Measured latency at one batch size, in turns with the other rows."""

    batch: PositiveCount
    median_ms: Positive
    speedup: NotRequired[Annotated[Positive, "time of the dense model over that of this one"]]
    speedup_interval: NotRequired[list[Positive]]


class LeverRow(TypedDict):
    """One of the four models, before fine-tuning."""

    model: Literal["dense", "mlp", "tokens", "both"]
    macs: Annotated[Count, "multiply-accumulates of one image, attention matmuls included"]
    bytes: Annotated[Count, "size of the weights"]
    top1: NotRequired[Fraction]
    top1_interval: NotRequired[Interval]
    latency: NotRequired[list[LeverLatency]]


ROWS: dict[str, str] = {"dense": "dense", "mlp": "mlp", "tokens": "tokens", "pruned": "both"}
"""Names of the rows by those of the models in other sections."""
