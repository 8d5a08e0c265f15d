"""Refuse a config that describes a model too large to build, before anything of it is built."""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import PreTrainedConfig

from hf_vbp._progress import shown
from hf_vbp.checkpoint.layout import CONFIG
from hf_vbp.errors import CheckpointError

# Classes of configs and models make lists and modules of these lengths, without weights too.
_COUNTS = (
    (re.compile(r"num_labels"), 1_000_000),
    (
        re.compile(
            r"(?!max_|min_|.*(dims?|sizes?|per)_)(.*_)?(n_?layers?|layers|depths?|blocks?|stages?|levels?|repeats?)"
        ),
        512,
    ),
    (re.compile(r"(.*_)?(queries|heads|experts|frames|groups|kernels?|channels?|iterations)"), 100_000),
)
_LARGEST_NUMBER = 100_000_000
# Notes about the training, values and ids, not sizes.
_NO_SIZE = re.compile(r".*(param|flop|byte|sample|total|seed|seen|theta|version|date|time|step|(^|_)ids?$).*")
# Their keys are names of classes, such as "stage" of ImageNet.
_NAMES_OF_CLASSES = ("label2id", "id2label")
_LARGEST_FILE = 64 * 2**20
_MOST_MODULES = 200_000
# A new head, and weights of four bits that are counted several times.
_MOST_NEW_PARAMETERS = 2**28
_PARAMETERS_PER_BYTE = 8


def check_config_size(path_or_id: Any, **hub: Any) -> None:
    """Refuse a ``config.json`` that is too large, or has numbers that no model has.

    Args:
        path_or_id: A folder, or the name of a repository on the Hub.
        hub: Options of transformers for the Hub.

    Raises:
        CheckpointError: The file or a number is too large; names the field.
    """
    file = Path(path_or_id) / hub.get("subfolder", "") / CONFIG
    if file.is_file() and file.stat().st_size > _LARGEST_FILE:
        raise CheckpointError(
            f"{file} has {file.stat().st_size:,} bytes, expected at most {_LARGEST_FILE:,}. Restore the original "
            "config.json."
        )
    try:
        content, _ = PreTrainedConfig.get_config_dict(path_or_id, **hub)
    except (OSError, ValueError):
        # Loading it reports the reason.
        return
    _check_numbers(content, str(path_or_id))


def _check_numbers(content: Any, source: str) -> None:
    queue: list[tuple[str, Any]] = [("", content)]
    while queue:
        name, value = queue.pop()
        if isinstance(value, Mapping):
            queue.extend((str(key), entry) for key, entry in value.items() if key not in _NAMES_OF_CLASSES)
        elif isinstance(value, list):
            queue.extend((name, entry) for entry in value)
        elif type(value) is int and abs(value) > _most(name) and not _NO_SIZE.match(name):
            raise CheckpointError(
                f"The config of {source} has {shown(name)} {shown(value)}, expected at most {_most(name):,}. Restore "
                "the original config.json."
            )


def _most(name: str) -> int:
    return next((most for pattern, most in _COUNTS if pattern.fullmatch(name)), _LARGEST_NUMBER)


@contextmanager
def bounded_model(source: str, folder: Path | None = None) -> Iterator[None]:
    """Refuse to build a model with too many modules, or with far more parameters than its weights, in this thread.

    Args:
        source: Name of the checkpoint, for the message.
        folder: Folder with its weights; None where none are read.

    Raises:
        CheckpointError: The model that is built in the block is too large.
    """
    thread, modules, parameters = threading.get_ident(), 0, 0
    held = None if folder is None else _bytes_of_weights(folder)

    def add_module(*_: Any) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > _MOST_MODULES:
            raise CheckpointError(
                f"The config of {source} describes a model of more than {_MOST_MODULES:,} modules. Restore the "
                "original config.json."
            )

    def add_parameter(_: Any, __: str, parameter: Any) -> None:
        nonlocal parameters
        if parameter is not None and threading.get_ident() == thread:
            parameters += parameter.numel()
        if held is not None and parameters > _MOST_NEW_PARAMETERS + _PARAMETERS_PER_BYTE * held:
            raise CheckpointError(
                f"The config of {source} describes a model of more than {parameters:,} parameters, but its weights "
                f"have {held:,} bytes. Restore the config.json of these weights."
            )

    handles = [
        register_module_module_registration_hook(add_module),
        register_module_parameter_registration_hook(add_parameter),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bytes_of_weights(folder: Path) -> int:
    files = [file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)]
    return sum(file.stat().st_size for file in files if file.is_file())
