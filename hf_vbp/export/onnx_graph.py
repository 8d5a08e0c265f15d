"""Changes of a converted ONNX graph, and its files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_vbp._version import __version__
from hf_vbp.export.formats import FORMATS, LARGEST_FILE
from hf_vbp.export.inputs import BATCH


def keep_outputs(model: Any, names: Sequence[str]) -> None:
    """Remove the other outputs of a graph, and the nodes that only they need.

    Args:
        model: An ``onnx_ir.Model``.
        names: The names of the outputs to keep.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    kept = [value for value in graph.outputs if value.name in set(names)]
    if len(kept) != len(graph.outputs):
        graph.outputs.clear()
        graph.outputs.extend(kept)
        RemoveUnusedNodesPass()(model)


def clean(model: Any) -> None:
    """Name the dimension of the images, and remove the notes of the tracer, which name files of this machine."""
    import onnx_ir

    model.producer_name, model.producer_version = "hf_vbp", __version__
    graphs = [model.graph, *model.functions.values()]
    first = model.graph.inputs[0].shape
    traced = first[0].value if first is not None and isinstance(first[0], onnx_ir.SymbolicDim) else None
    model.metadata_props.clear()
    for graph in graphs:
        graph.metadata_props.clear()
        graph.doc_string = None
        values = [*graph.inputs, *graph.outputs]
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        for value in (*values, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
            value.doc_string = None
            _rename(value, traced)


def _rename(value: Any, traced: str | None) -> None:
    import onnx_ir

    if value.shape is None or traced is None:
        return
    named = [
        onnx_ir.SymbolicDim(BATCH) if isinstance(dim, onnx_ir.SymbolicDim) and dim.value == traced else dim
        for dim in value.shape
    ]
    value.shape = onnx_ir.Shape(named)


def save(model: Any, path: Path, largest: int = LARGEST_FILE) -> None:
    """Write a graph to one file, or with its weights in a second one where they are too large for protobuf.

    Args:
        model: An ``onnx_ir.Model``.
        path: The file.
        largest: The largest size of the weights in the main file, in bytes.

    Raises:
        OSError: The file cannot be written.
    """
    import onnx_ir

    weights = (value.const_value for value in model.graph.initializers.values())
    size = sum(weight.nbytes for weight in weights if weight is not None)
    external = f"{path.name}{FORMATS['onnx'].companion}" if size > largest else None
    onnx_ir.save(model, path, external_data=external)
