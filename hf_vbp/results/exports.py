"""The section ``exports``: files for other runtimes, each compared with the PyTorch model in a fresh process."""

from typing import Annotated, Literal, NotRequired, TypedDict

from hf_vbp.results.figures import Fraction, Interval, Length, NonNegative, Positive, PositiveCount


class ExportLatency(TypedDict):
    """Measured latency of one exported file, in turns with the exported dense model where there is one."""

    threads: PositiveCount
    batch: PositiveCount
    device_name: str
    repetitions: PositiveCount
    median_ms: Positive
    interval_ms: NotRequired[Annotated[list[Positive], Length(2), "95 % interval of the median"]]
    dense_ms: NotRequired[Annotated[Positive, "median of the dense model, exported to the same format in float32"]]
    speedup: NotRequired[Annotated[Positive, "time of the dense model over that of this file"]]
    speedup_interval: NotRequired[Annotated[list[Positive], Length(2)]]


class DenseExport(TypedDict):
    """The dense model, exported to the same format and precision, and compared with its own PyTorch model."""

    bytes: PositiveCount
    max_abs_difference: NotRequired[NonNegative]
    max_scaled_difference: NotRequired[NonNegative]
    agreement: NotRequired[Fraction]
    top1: NotRequired[Fraction]
    top1_interval: NotRequired[Interval]
    latency: NotRequired[list[ExportLatency]]


class Quantization(TypedDict):
    """How a file was quantized to 8 bits."""

    method: Annotated[Literal["dynamic", "static"], "whether the activations are scaled at run time or beforehand"]
    per_channel: Annotated[bool, "one scale for each output neuron"]
    float_nodes: Annotated[Fraction, "share of matrix products and convolutions that compute in float"]
    calibration_images: NotRequired[PositiveCount]
    errors: NotRequired[Annotated[dict[str, NonNegative], "distance from PyTorch by method, on the other half"]]


class ExportRow(TypedDict):
    """One exported model, opened in a fresh process and compared with the PyTorch model."""

    file: Annotated[str, "name in the folder of the checkpoint"]
    format: Literal["onnx", "openvino", "torch-export", "executorch"]
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    files: Annotated[dict[str, str], "name to sha256 of the file and of those that belong to it"]
    bytes: Annotated[PositiveCount, "size of these files"]
    runtime: Annotated[str, "name and version"]
    inputs: Annotated[dict[str, list[int | str]], "shape by name; the batch is a name"]
    outputs: list[str]
    data: Annotated[str, "source of the compared images; generated: random values"]
    images: PositiveCount
    batches: Annotated[list[PositiveCount], "sizes of the compared batches"]
    max_abs_difference: Annotated[NonNegative, "largest absolute difference of an output"]
    max_scaled_difference: NotRequired[
        Annotated[NonNegative, "the same in units of the largest value of the output where that exceeds 1"]
    ]
    agreement: Annotated[Fraction, "share of images with the same answer as in PyTorch"]
    top1: NotRequired[Fraction]
    top1_interval: NotRequired[Interval]
    pytorch_top1: NotRequired[Annotated[Fraction, "top1 of the PyTorch model on the same images"]]
    quantization: NotRequired[Quantization]
    dense: NotRequired[DenseExport]
    latency: NotRequired[list[ExportLatency]]
