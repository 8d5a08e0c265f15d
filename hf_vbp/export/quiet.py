"""Silence the converters, which print their steps, and warn about each other's versions."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

_LOGGERS = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir", "root", "nncf")


def import_openvino() -> Any:
    """Import OpenVINO without the package that sends usage data to Intel, and return it.

    It sends them on import, by a process that is forked from this one in spite of its threads, and without a question.
    OpenVINO has a stub for where the package is missing. Where the user imported it before, nothing changes.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@contextmanager
def quiet_conversion() -> Iterator[None]:
    """Hide the output, the warnings and the log messages of converters below an error, until the block ends."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    loggers = {name: logging.getLogger(None if name == "root" else name) for name in _LOGGERS}
    levels = {name: logger.level for name, logger in loggers.items()}
    transformers_logging.set_verbosity_error()
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        transformers_logging.set_verbosity(verbosity)
