"""The sections for the effects of pruning: output error, cost, accuracy, latency, and the receipt."""

from typing import Annotated, Literal, NotRequired, TypedDict

from hf_vbp.results.figures import (
    Bounds,
    Count,
    Fraction,
    Interval,
    NonNegative,
    Positive,
    PositiveCount,
    open_section,
)

# Errors of unchanged MLPs may be negative by the rounding of their sums.
RelativeError = Annotated[float, Bounds(minimum=-1e-6)]


@open_section
class OutputError(TypedDict, total=False):
    """Squared error of the outputs of the MLPs over their variance, in total and for each MLP."""

    relative_output_error: RelativeError
    relative_output_error_by_site: list[RelativeError]
    metric: str
    exact: bool


class Cost(TypedDict):
    """Cost of one model."""

    parameters: Count
    macs: Annotated[Count, "multiply-accumulates of one image, attention matmuls included"]
    bytes: Annotated[Count, "size of the weights"]


class Costs(TypedDict):
    """Cost before and after pruning."""

    dense: Cost
    pruned: Cost


class Evaluation(TypedDict):
    """Figures of one model on the evaluation images."""

    images: PositiveCount
    top1: NotRequired[Fraction]
    top1_interval: NotRequired[Interval]
    top5: NotRequired[Fraction]
    agreement: NotRequired[Annotated[Fraction, "share of images with the same answer as the dense model"]]
    kl: NotRequired[Annotated[NonNegative, "Kullback-Leibler divergence from the dense model, in nats"]]


class Evaluations(TypedDict, total=False):
    """Figures on the evaluation images, before and after."""

    dense: Evaluation
    pruned: Evaluation
    finetuned: Evaluation
    retention: Annotated[NonNegative, "top-1 right after pruning over top-1 before"]


@open_section
class LatencyRow(TypedDict):
    """Measured latency of one model at one batch size."""

    model: Literal["dense", "pruned", "finetuned"]
    device: str
    dtype: str
    batch: PositiveCount
    median_ms: Positive
    speedup: NotRequired[Annotated[Positive, "time of the dense model over that of this one"]]
    speedup_interval: NotRequired[list[Positive]]


@open_section
class ReceiptRow(TypedDict):
    """Outputs of the saved checkpoint, loaded in a fresh process in one way, compared with the model in memory."""

    way: str
    transformers: str
    max_abs_difference: NonNegative
    files: NotRequired[Annotated[dict[str, str], "name to sha256"]]
    without_merging: NotRequired[Annotated[bool, "compared with the model without merged tokens"]]
