"""The formats of exported files: their names, precisions, and the packages that they need."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from hf_vbp.errors import ConfigurationError, MissingPackageError

FLOAT32 = "fp32"
FLOAT16 = "fp16"
INT8 = "int8"
# On top of the limit of protobuf, 2 GB, the weights are in a second file.
LARGEST_FILE = 2 * 10**9


@dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes:
        name: Its name on the command line.
        title: Its name in sentences.
        folder: The folder of its files in that of the checkpoint.
        files: The main file by precision, in the order in which they are written.
        companion: The suffix of the second file that belongs to each main file; empty where there is none.
        modules: The modules that must be importable, with the command that installs each.
    """

    name: str
    title: str
    folder: str
    files: dict[str, str]
    modules: dict[str, str]
    companion: str = ""

    def path(self, precision: str, *, tower: bool = False) -> str:
        """Return the name of the main file, relative to the folder of the checkpoint.

        Args:
            precision: The precision of the file.
            tower: Whether it is the image tower of a dual encoder, which transformers.js looks for by another name.
        """
        prefix = "vision_" if tower and self.name == "onnx" else ""
        return f"{self.folder}/{prefix}{self.files[precision]}"


_ONNX = "pip install 'hf-vbp[onnx]'"
_OPENVINO = "pip install 'hf-vbp[openvino]'"

FORMATS = {
    one.name: one
    for one in (
        ExportFormat(
            "onnx",
            "ONNX",
            "onnx",
            # The names that transformers.js and the Hub look for.
            {FLOAT32: "model.onnx", FLOAT16: "model_fp16.onnx", INT8: "model_quantized.onnx"},
            dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), _ONNX),
            companion="_data",
        ),
        ExportFormat(
            "openvino",
            "OpenVINO",
            "openvino",
            {FLOAT32: "openvino_model.xml", FLOAT16: "openvino_model_fp16.xml"},
            {"openvino": _OPENVINO},
        ),
        ExportFormat("torch-export", "torch.export", "torch_export", {FLOAT32: "model.pt2"}, {}),
        ExportFormat(
            "executorch",
            "ExecuTorch",
            "executorch",
            {FLOAT32: "model.pte"},
            {"executorch": "pip install executorch"},
        ),
    )
}


def find_format(name: str, quantize: Sequence[str] = ()) -> ExportFormat:
    """Return a format after checking that it exists, is installed, and has the wanted precisions.

    Args:
        name: Its name.
        quantize: Precisions that are wanted in addition to that of the model.

    Raises:
        ConfigurationError: There is no such format, or it does not have a precision.
        MissingPackageError: A package that it needs is not installed.
    """
    found = FORMATS.get(name)
    if found is None:
        raise ConfigurationError(f"Unknown export format {name!r}; expected one of {', '.join(FORMATS)}.")
    others = [precision for precision in found.files if precision != FLOAT32]
    for precision in quantize:
        if precision not in others:
            expected = f"expected {' or '.join(others)}" if others else "leave quantize out"
            known = any(precision in one.files for one in FORMATS.values())
            advice = " (int8 is written for onnx)" if precision == INT8 and known else ""
            raise ConfigurationError(f"{found.title} files have no precision {precision!r}; {expected}{advice}.")
    for module, install in found.modules.items():
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(
                f"The format {name} needs the package {module}, which is not installed. Install it: {install}."
            )
    return found
