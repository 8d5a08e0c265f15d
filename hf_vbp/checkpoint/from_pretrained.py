"""Load a pruned or an ordinary checkpoint strictly."""

import os
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from hf_vbp._packages import missing_package
from hf_vbp._progress import one_line, shown
from hf_vbp.checkpoint.config_limits import bounded_model, check_config_size
from hf_vbp.checkpoint.load_errors import load_errors
from hf_vbp.checkpoint.transformers_patch import patched
from hf_vbp.errors import CheckpointError, ConfigurationError, HfVbpError
from hf_vbp.files.json_object import read_json_object
from hf_vbp.files.layout import INDEX, WEIGHTS
from hf_vbp.modeling.config_record import read_widths

_SHOWN = 3
# In the order in which transformers looks for them.
_WEIGHT_FILES = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
_RESTORE = "Restore the files of the checkpoint, or save the model again."
_OF_THE_HUB = ("revision", "cache_dir", "token", "subfolder", "local_files_only")
# Upstream puts what to do next at the end of texts of up to this length.
_LONGEST = 1000


def from_pretrained(path_or_id: str | os.PathLike[str], *, auto_class: Any = None, **kwargs: Any) -> Any:
    """Load a pruned or an ordinary checkpoint, and refuse one whose weights do not fit or are missing.

    Patches transformers during the call only, so it also works after :func:`unpatch_transformers`. It is stricter
    than loading with transformers: no weight of a pruned checkpoint is ever random, except those of a new head.

    Args:
        path_or_id: A folder, or the name of a repository on the Hub.
        auto_class: The auto class or model class that loads it; ``AutoModelForImageClassification`` by default.
        **kwargs: Passed to ``from_pretrained`` of transformers: ``dtype``, ``device_map``, ``revision``, ... With
            ``ignore_mismatched_sizes=True`` the head may be a new one (``num_labels``), the rest may not.
            ``trust_remote_code`` is False by default: code of the checkpoint is not run, and there is no prompt.

    Returns:
        The model; with ``output_loading_info=True`` the model and the loading information.

    Raises:
        CheckpointError: There is no readable checkpoint, its weights do not fit its config, or weights are missing.
        ConfigurationError: ``weights_only=False`` was given, which would run code from a ``.bin`` file.
        MissingPackageError: The checkpoint needs a package that is not installed (bitsandbytes, flash attention, ...).
    """
    from transformers import AutoModelForImageClassification

    auto_class = auto_class or AutoModelForImageClassification
    wants_info = kwargs.pop("output_loading_info", False)
    if not kwargs.pop("weights_only", True):
        raise ConfigurationError(
            "weights_only=False runs code in a .bin file, expected True. Save the weights as safetensors."
        )
    # None would make transformers ask on the terminal.
    kwargs.setdefault("trust_remote_code", False)
    folder = Path(path_or_id) / kwargs.get("subfolder", "")
    with patched() as problem, bounded_model(str(path_or_id), folder if folder.is_dir() else None):
        try:
            if kwargs.get("config") is None:
                check_config_size(path_or_id, **{name: kwargs[name] for name in _OF_THE_HUB if name in kwargs})
            if kwargs.get("variant") is None and "state_dict" not in kwargs:
                _check_shards(folder)
            model, info = auto_class.from_pretrained(path_or_id, output_loading_info=True, **kwargs)
        except HfVbpError:
            raise
        except ImportError as error:
            raise missing_package(error, str(path_or_id)) from error
        except load_errors() as error:
            reason = _reason(error, path_or_id) + (f". Note that {problem}." if problem else "")
            raise CheckpointError(f"{path_or_id} cannot be loaded: {reason}") from error
    _check_widths(model, path_or_id)
    _check_complete(model, info, path_or_id, kwargs.get("ignore_mismatched_sizes", False))
    return (model, info) if wants_info else model


def _check_shards(folder: Path) -> None:
    """Refuse a folder whose index names a shard that is not in it."""
    index = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    if index is None or index.suffix != ".json":
        return
    shards = read_json_object(index, _RESTORE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} names no shards. {_RESTORE}")
    for name in sorted(set(map(str, shards.values()))):
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {shown(name)}, which is not in the folder. {_RESTORE}")


def _reason(error: Exception, path_or_id: Any) -> str:
    """Return the reason of a failure in one line, without the lists and the advice that are meant for programmers."""
    text = one_line(error, _LONGEST)
    if "ignore_mismatched_sizes" in text:
        return (
            "some of its weights have other shapes than its config.json describes; the report above lists them. "
            "Restore the config.json of these weights"
        )
    damaged = IndexError | KeyError | EOFError | UnpicklingError
    if isinstance(error, damaged) and any(Path(path_or_id).glob("*.bin")):
        return f"its .bin weights are damaged or not those of PyTorch ({text}). Restore them, or save safetensors"
    return text.partition(" Model type should be one of")[0]


def _check_widths(model: Any, source: Any) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import find_mlps, pruned_parts

    read_widths(model.config)
    for _, part, record in pruned_parts(model):
        widths = tuple(mlp.width for mlp in find_mlps(part, record))
        if len(widths) == len(record.widths) and widths != record.widths:
            raise CheckpointError(
                f"{source}: the model has the widths {list(widths)}, but its config records {list(record.widths)}."
            )


def _check_complete(model: Any, info: dict[str, Any], source: Any, new_head: bool) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import pruned_parts

    prefix = f"{model.base_model_prefix}."
    is_backbone = not any(key.startswith(prefix) for key in model.state_dict())

    def outside_head(keys: Iterable[str]) -> list[str]:
        return sorted(key for key in keys if is_backbone or key.startswith(prefix))

    mismatched = outside_head(entry[0] for entry in info["mismatched_keys"])
    if mismatched:
        raise CheckpointError(
            f"{source}: {_count(mismatched)} of {type(model).__name__} have another shape than the config describes, "
            "so they would be random. Load it with the config it was saved with; ignore_mismatched_sizes=True allows "
            "only a new head."
        )
    missing = info["missing_keys"]
    if not pruned_parts(model):
        # Equal widths leave no record, so the MLPs of every model are checked.
        missing = outside_head(set(missing) & _mlp_weights(model))
    elif new_head:
        missing = outside_head(missing)
    # A backbone that was taken out of a classifier has a pooler that no classifier has.
    missing = sorted(key for key in missing if not (is_backbone and key.startswith("pooler.")))
    if missing:
        raise CheckpointError(
            f"{source} lacks {_count(missing)} of {type(model).__name__}, so they would be random. Load it with the "
            f"class it was saved from ({', '.join(model.config.architectures or ['unknown'])}), or pass "
            "ignore_mismatched_sizes=True for a new head."
        )


def _mlp_weights(model: Any) -> set[str]:
    from hf_vbp.modeling.modeling_hf_vbp import find_mlps, mlp_keys

    return {key for mlp in find_mlps(model) for key in mlp_keys(mlp)}


def _count(keys: list[str]) -> str:
    return f"{len(keys)} weights ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
