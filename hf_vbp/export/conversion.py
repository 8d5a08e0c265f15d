"""Convert a model by ``transformers.exporters``, and write the program of each format."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_vbp._packages import missing_package
from hf_vbp._progress import one_line
from hf_vbp.errors import MissingPackageError, UnsupportedModelError
from hf_vbp.export import onnx_graph
from hf_vbp.export.formats import FLOAT16, ExportFormat
from hf_vbp.export.inputs import ImageTower, dynamic_shapes, flattened, task_outputs
from hf_vbp.export.quiet import import_openvino, quiet_conversion
from hf_vbp.modeling.precision import eval_mode, own_precision

# Converters raise errors of their own, all of which derive from these.
_FAILURES = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, NotImplementedError
)  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A converted model.

    Attributes:
        value: The program in memory, of the type of its format.
        inputs: The inputs that it was traced with.
        outputs: The names of its outputs.
    """

    value: Any
    inputs: Mapping[str, Tensor]
    outputs: list[str]


def convert(module: Any, inputs: Mapping[str, Tensor], form: ExportFormat) -> Program:
    """Convert a model.

    Args:
        module: The model, in eval mode on the CPU; see :func:`hf_vbp.export.inputs.exported_module`.
        inputs: The inputs that it is traced with.
        form: The format.

    Raises:
        UnsupportedModelError: The exporter does not take the model.
        MissingPackageError: A package that the exporter needs is missing or too old.
    """
    convert_to = {"onnx": _onnx, "openvino": _openvino, "torch-export": _torch, "executorch": _executorch}[form.name]
    try:
        with quiet_conversion(), eval_mode(module), own_precision(module):
            return convert_to(module, dict(inputs))
    except ImportError as error:
        raise _missing(error, form) from error
    except _FAILURES as error:
        import transformers

        name = type(module.model if isinstance(module, ImageTower) else module).__name__
        raise UnsupportedModelError(
            f"{name} cannot be converted to {form.title} by the exporter of transformers {transformers.__version__}: "
            f"{one_line(error)}. Choose another format, or try a newer transformers."
        ) from error


def save(program: Program, form: ExportFormat, path: Path, precision: str) -> None:
    """Write a program.

    Args:
        program: The program.
        form: Its format.
        path: The main file.
        precision: ``fp32`` or a precision that the writer itself makes.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if form.name == "onnx":
        onnx_graph.save(program.value, path)
    elif form.name == "openvino":
        import_openvino().save_model(program.value, str(path), compress_to_fp16=precision == FLOAT16)
    elif form.name == "torch-export":
        torch.export.save(program.value, str(path))
    else:
        with path.open("wb") as file:
            program.value.write_to_file(file)


def _missing(error: ImportError, form: ExportFormat) -> MissingPackageError:
    if "transformers.exporters" in str(error):
        return MissingPackageError(
            "Export needs transformers.exporters, which the installed transformers does not have. Install a newer "
            "one: pip install --upgrade transformers."
        )
    return missing_package(error, f"The format {form.name}")


def _onnx(module: Any, inputs: dict[str, Tensor]) -> Program:
    from transformers.exporters import OnnxConfig, OnnxExporter

    config = OnnxConfig(dynamic_shapes=dynamic_shapes(inputs))
    graph, _ = OnnxExporter().export_program(module, inputs, config)
    onnx_graph.keep_outputs(graph, task_outputs([value.name for value in graph.graph.outputs]))
    onnx_graph.clean(graph)
    return Program(graph, inputs, [value.name for value in graph.graph.outputs])


def _openvino(module: Any, inputs: dict[str, Tensor]) -> Program:
    openvino = import_openvino()
    from transformers.exporters import OpenVINOConfig, OpenVINOExporter

    config = OpenVINOConfig(dynamic_shapes=dynamic_shapes(inputs), stateful=False)
    program, _ = OpenVINOExporter().export_program(module, inputs, config)
    names = [port.get_any_name() for port in program.outputs]
    kept = task_outputs(names)
    ports = [port for port, name in zip(program.outputs, names, strict=True) if name in kept]
    program = openvino.Model([port.node for port in ports], program.get_parameters(), "model")
    return Program(program, inputs, kept)


def _torch(module: Any, inputs: dict[str, Tensor]) -> Program:
    from transformers.exporters import DynamoConfig, DynamoExporter
    from transformers.exporters.utils import patch_model_outputs

    config = DynamoConfig(dynamic_shapes=dynamic_shapes(inputs))
    # A dict of tensors, which a process without transformers can read.
    with patch_model_outputs(module) as (_, names, _):
        program, _ = DynamoExporter().export_program(module, inputs, config)
    if any("wrap_with" in str(node.target) for node in program.graph.nodes):
        # Blocks without autocast, as in the merging of tokens, are written but not read by torch.
        program = program.run_decompositions({})
    for graph_module in program.graph_module.modules():
        for node in getattr(getattr(graph_module, "graph", None), "nodes", ()):
            # It names files of this machine.
            node.meta.pop("stack_trace", None)
    return Program(program, inputs, list(names))


def _executorch(module: Any, inputs: dict[str, Tensor]) -> Program:
    from transformers.exporters import ExecutorchConfig, ExecutorchExporter

    config = ExecutorchConfig(dynamic_shapes=dynamic_shapes(inputs))
    program, _ = ExecutorchExporter().export_program(module, inputs, config)
    with torch.no_grad():
        names = list(flattened(module(**inputs)))
    return Program(program, inputs, names)
