"""The sections for the effects of pruning: output error, cost, accuracy, latency, and the receipt."""

from typing import Annotated, Literal, NotRequired, TypedDict

from hf_vbp.results.figures import (
    Bounds,
    Count,
    Fraction,
    Interval,
    Length,
    NonNegative,
    Positive,
    PositiveCount,
    open_section,
)

# A difference of two shares.
Change = Annotated[float, Bounds(minimum=-1, maximum=1)]
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
    part: NotRequired[Annotated[str, "name of the vision tower, where the model takes texts too and only it counts"]]


class Figure(TypedDict):
    """Mean of a figure over the images, with its uncertainty."""

    mean: NonNegative
    standard_error: NotRequired[NonNegative]
    interval: NotRequired[Annotated[list[NonNegative], Length(2), "95 % interval of the mean"]]


class OutputFigures(TypedDict):
    """Distance of one tensor of the output from that of the dense model; means over the images."""

    kind: Annotated[str, "kind of output, see docs/output_distance.md"]
    kl: NotRequired[Annotated[Figure, "Kullback-Leibler divergence of the classes, in nats, mean over positions"]]
    binary_kl: NotRequired[Annotated[Figure, "the same of labels that each hold or not, summed over the labels"]]
    agreement: NotRequired[Annotated[Figure, "share of positions with the same answer"]]
    squared_error: NotRequired[Annotated[Figure, "squared error, summed over coordinates, mean over positions"]]
    variance_share: NotRequired[Annotated[Figure, "squared error over the variance of the dense output; may exceed 1"]]
    cosine_distance: NotRequired[Annotated[Figure, "1 - cosine, between 0 and 2"]]
    neighbor_kl: NotRequired[Annotated[Figure, "Kullback-Leibler divergence of the similarities to other images"]]
    neighbor_agreement: NotRequired[Annotated[Figure, "share of images with the same nearest image"]]


class NeighborAccuracy(TypedDict):
    """Top-1 of a vote of the nearest labelled images, each model with features of its own."""

    top1: Fraction
    interval: Interval
    change: NotRequired[Annotated[Change, "top1 minus that of the dense model"]]
    change_interval: NotRequired[Annotated[list[Change], Length(2), "paired 95 % interval"]]
    neighbors: PositiveCount
    bank_images: PositiveCount


class ZeroShotAccuracy(TypedDict):
    """Top-1 by the nearest of class-name prompts."""

    top1: Fraction
    interval: Interval
    change: NotRequired[Annotated[Change, "top1 minus that of the dense model"]]
    change_interval: NotRequired[Annotated[list[Change], Length(2), "paired 95 % interval"]]
    classes: PositiveCount
    templates: list[str]


class ClassAccuracy(TypedDict):
    """Top-1 on the images of one class."""

    label: NotRequired[Annotated[str, "name of the class"]]
    images: PositiveCount
    top1: Fraction


class Evaluation(TypedDict):
    """Figures of one model on the evaluation images."""

    images: PositiveCount
    top1: NotRequired[Fraction]
    top1_interval: NotRequired[Interval]
    top5: NotRequired[Fraction]
    ece: NotRequired[Annotated[Fraction, "expected calibration error in 15 bins"]]
    classes: NotRequired[Annotated[dict[str, ClassAccuracy], "by class id"]]
    agreement: NotRequired[Annotated[Fraction, "share of images with the same answer as the dense model"]]
    agreement_interval: NotRequired[Interval]
    kl: NotRequired[Annotated[NonNegative, "Kullback-Leibler divergence from the dense model, in nats"]]
    kl_interval: NotRequired[Annotated[list[NonNegative], Length(2)]]
    label_accuracy: NotRequired[Annotated[Fraction, "share of correct decisions, of several labels per image"]]
    f1: NotRequired[Annotated[Fraction, "micro F1, of several labels per image"]]
    label_squared_error: NotRequired[Annotated[Figure, "squared error of a regression against the labels"]]
    outputs: NotRequired[Annotated[dict[str, OutputFigures], "by the tensor of the output"]]
    output_distance: NotRequired[Annotated[Figure, "added over these tensors, see docs/output_distance.md"]]
    knn: NotRequired[NeighborAccuracy]
    zero_shot: NotRequired[ZeroShotAccuracy]
    metrics: NotRequired[Annotated[dict[str, dict[str, float]], "values of the metrics that the user named"]]


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
    compiled: NotRequired[Annotated[bool, "whether the models were compiled by torch.compile"]]
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
