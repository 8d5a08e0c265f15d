"""Smaller ONNX files: int8 by ONNX Runtime's quantizers, and float16."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from hf_vbp.errors import DataError
from hf_vbp.export.conversion import Program
from hf_vbp.export.quiet import quiet_conversion
from hf_vbp.export.reference import Reference

Method = Literal["dynamic", "static"]
METHODS: tuple[Method, ...] = ("dynamic", "static")
# Activations are scaled by so many images at most, one at a time, since their histograms are kept in memory.
_MOST_CALIBRATED = 64
_FEWEST_IMAGES = 4
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_INT8_PRODUCTS = ("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QGemm")


@dataclass(frozen=True)
class Quantized:
    """A graph in 8 bits.

    Attributes:
        program: The graph.
        method: How its activations are scaled.
        float_nodes: Share of the matrix products and convolutions that compute in float.
        calibration_images: Images by which activations were scaled; None where they are scaled at run time.
        errors: Distance from PyTorch on the other half of the images, by method; infinite where a graph gives NaN.
    """

    program: Program
    method: Method
    float_nodes: float
    calibration_images: int | None = None
    errors: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the ``quantization`` part of a row of the results."""
        row = {"method": self.method, "per_channel": True, "float_nodes": self.float_nodes}
        # JSON has no infinity.
        errors = {one: error for one, error in (self.errors or {}).items() if math.isfinite(error)}
        found = {"calibration_images": self.calibration_images, "errors": errors or None}
        return row | {name: value for name, value in found.items() if value is not None}


def best_int8(
    program: Program, calibration: Reference, run: Callable[[Program, Reference], dict[str, Tensor]]
) -> Quantized:
    """Quantize a graph to 8 bits by the method that is nearer to PyTorch.

    Dynamic scales need no images. Static ones are measured on the first half of the images; both graphs are then
    compared with the PyTorch model on the second half.

    Args:
        program: The graph in float32; not changed.
        calibration: Images with the outputs of the PyTorch model.
        run: Runs a graph on images and returns its outputs.

    Raises:
        DataError: There are fewer than 4 images.
    """
    if calibration.images < _FEWEST_IMAGES:
        raise DataError(
            f"int8 is chosen on two halves of the images, and {calibration.source} gives {calibration.images}; "
            f"expected at least {_FEWEST_IMAGES}, some hundreds are usual. Give more with --data."
        )
    half = calibration.images // 2
    first, second = calibration.part(0, half), calibration.part(half, calibration.images)
    scaled = first.part(0, min(half, _MOST_CALIBRATED))
    made = {method: quantize_int8(program, method, scaled) for method in METHODS}
    found = {method: second.error(run(made[method], second)) for method in METHODS}
    # NaN is not above any number, so a graph that gives it would be chosen.
    errors: dict[str, float] = {method: math.inf if math.isnan(error) else error for method, error in found.items()}
    method = min(METHODS, key=lambda one: errors[one])
    images = scaled.images if method == "static" else None
    return Quantized(made[method], method, float_share(made[method].value), images, {**errors})


def quantize_int8(program: Program, method: Method, calibration: Reference) -> Program:
    """Return a graph whose matrix products with weights compute in 8 bits, with one scale per output neuron.

    Products of two activations, as in attention, and the first convolution remain in float.

    Args:
        program: The graph in float32; not changed.
        method: ``"dynamic"`` or ``"static"``.
        calibration: The images by which static scales are measured.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig

    kept = _float_nodes(program.value)
    if method == "dynamic":
        # ONNX Runtime has no dynamic convolution with signed weights.
        config: Any = OnnxRuntimeDynamicConfig(
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=kept,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    else:
        config = OnnxRuntimeStaticConfig(
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_exclude=kept,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.Percentile,
        )
    samples = [
        {name: value[index : index + 1] for name, value in calibration.inputs.items()}
        for index in range(calibration.images)
    ]
    with quiet_conversion(), _without_advice():
        quantized = OnnxRuntimeQuantizer(config, samples).quantize(program.value, dict(samples[0]), "onnx")
    return Program(quantized, program.inputs, program.outputs)


def to_float16(program: Program) -> Program:
    """Return a graph whose weights and computations are float16, with inputs and outputs in float32."""
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet_conversion():
        proto = convert_float_to_float16(onnx_ir.to_proto(program.value), keep_io_types=True)
        return Program(onnx_ir.from_proto(proto), program.inputs, program.outputs)


def float_share(model: Any) -> float:
    """Return the share of the matrix products and convolutions of a graph that compute in float."""
    in_float = in_int8 = 0
    for node in model.graph.all_nodes():
        if node.op_type in _INT8_PRODUCTS:
            in_int8 += 1
        elif node.op_type in _PRODUCTS:
            producer = node.inputs[1].producer() if node.inputs[1] is not None else None
            if producer is not None and producer.op_type == "DequantizeLinear":
                in_int8 += 1
            else:
                in_float += 1
    return in_float / max(1, in_float + in_int8)


def _float_nodes(model: Any) -> list[str]:
    """Return the names of the products without weights, and of the first convolution, which reads the pixels."""
    products = [node for node in model.graph if node.op_type in _PRODUCTS]
    first = next((node for node in products if node.op_type == "Conv"), None)
    return [str(node.name) for node in products if node is first or not _has_weights(node)]


def _has_weights(node: Any) -> bool:
    return any(value is not None and value.const_value is not None for value in node.inputs)


@contextmanager
def _without_advice() -> Iterator[None]:
    # ONNX Runtime advises a preparation of the graph that the exporter has done.
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
