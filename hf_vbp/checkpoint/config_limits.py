"""Refuse a config that describes no model, or one too large to build, before anything of it is built."""

import difflib
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from hf_vbp._progress import LONGEST_SHOWN, shown
from hf_vbp.errors import CheckpointError
from hf_vbp.files.layout import ADAPTER, CONFIG

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
# Without one of these there is no model. Zero layers are possible, and other fields have -1 for "all" or "none".
_LEAST = (
    (
        re.compile(r"(hidden|image|patch)_sizes?|embed_dims?|d_model|num_channels|num(_attention|_key_value)?_heads"),
        1,
    ),
    # A pruned MLP may have no neuron left.
    (re.compile(r"intermediate_size|num(_hidden)?_layers|depths?"), 0),
)
_ACTIVATION = "hidden_act"
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
    """Refuse a ``config.json`` that is too large, or has numbers or names that no model has.

    Args:
        path_or_id: A folder, or the name of a repository on the Hub.
        hub: Options of transformers for the Hub.

    Raises:
        CheckpointError: The file or a number is too large, a size is 0, or an activation is unknown; names the field.
        OSError: The Hub cannot be reached.
    """
    file = Path(path_or_id) / hub.get("subfolder", "") / CONFIG
    if file.is_file() and file.stat().st_size > _LARGEST_FILE:
        raise CheckpointError(
            f"{file} has {file.stat().st_size:,} bytes, expected at most {_LARGEST_FILE:,}. Restore the original "
            "config.json."
        )
    try:
        content, _ = PreTrainedConfig.get_config_dict(path_or_id, **hub)
    except (OSError, ValueError) as error:
        unreachable = isinstance(error.__cause__, LocalEntryNotFoundError) and not is_offline_mode()
        if unreachable and not _has_adapter(str(path_or_id), hub):
            # The Hub was asked with retries, so it is not asked again.
            raise
        # Loading it reports the reason.
        return
    check_fields(content, str(path_or_id))


def _has_adapter(repo_id: str, hub: Mapping[str, Any]) -> bool:
    """Return whether the cache holds an adapter of this name, which needs no config.json."""
    where = {name: hub[name] for name in ("revision", "cache_dir") if hub.get(name) is not None}
    return isinstance(try_to_load_from_cache(repo_id, ADAPTER, **where), str)


def check_fields(content: Any, source: str) -> None:
    """Refuse the content of a config with numbers or names that no model has.

    Args:
        content: The content of a ``config.json``.
        source: Name of the checkpoint, for the message.

    Raises:
        CheckpointError: A field has a value that no model has; names the field.
    """
    architectures = content.get("architectures") if isinstance(content, Mapping) else None
    if isinstance(architectures, str):
        raise _wrong(source, "architectures", architectures, f"a list, [{shown(architectures)}]")
    queue: list[tuple[str, Any]] = [("", content)]
    while queue:
        name, value = queue.pop()
        if isinstance(value, Mapping):
            queue.extend((str(key), entry) for key, entry in value.items() if key not in _NAMES_OF_CLASSES)
        elif isinstance(value, list):
            queue.extend((name, entry) for entry in value)
        elif type(value) is int and abs(value) > _most(name) and not _NO_SIZE.match(name):
            raise _wrong(source, name, value, f"at most {_most(name):,}")
        elif type(value) is int and value < _least(name):
            raise _wrong(source, name, value, f"at least {_least(name)}")
        elif name == _ACTIVATION and isinstance(value, str) and value not in ACT2FN:
            near = difflib.get_close_matches(value[:LONGEST_SHOWN], ACT2FN, n=1) or ["gelu"]
            raise _wrong(source, name, value, f"the name of an activation of transformers, such as {near[0]!r}")


def _wrong(source: str, name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"The config of {source} has {shown(name)} {shown(value)}, expected {expected}. Restore the original "
        "config.json."
    )


def _least(name: str) -> float:
    return next((least for pattern, least in _LEAST if pattern.fullmatch(name)), -math.inf)


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
