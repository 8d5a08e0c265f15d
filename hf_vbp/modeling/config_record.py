"""Write the widths of a pruned model to its config, and read them back."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.modeling_hf_vbp import RECORD_VERSION, MLPPair, Record, find_pairs, read_record

# The name under which `auto_map` refers to the modeling file.
_MODELING_MODULE = modeling_hf_vbp.__name__.rpartition(".")[2]
_KEYS = {"version", "widths", "dense_widths", "modules"}


def write_widths(
    config: Any,
    widths: Sequence[int],
    *,
    dense_widths: Sequence[int],
    modules: Sequence[tuple[str, str]] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record the widths of the MLPs in a config, in place, so that ``save_pretrained`` alone writes them.

    - Equal widths in a family with one ``intermediate_size`` for all blocks: only ``intermediate_size``, which every
      version of transformers loads.
    - Otherwise ``config.vbp``, which is authoritative. Where the family has one ``intermediate_size`` for all blocks,
      upstream's ``per_layer_config`` is written in addition. Reading ``config.intermediate_size`` then raises
      ``AmbiguousGlobalPerLayerAttributeError``; read ``config.vbp["widths"]`` or
      ``config.per_layer_config[i].intermediate_size``.

    Records of an earlier pruning are replaced.

    Args:
        config: The ``PreTrainedConfig`` of the model.
        widths: One width per MLP, in block order; 0 is allowed.
        dense_widths: The widths before any pruning.
        modules: The local names of the two linears of each MLP, relative to the nearest module that holds both, in
            block order. Without names, reloading finds the MLPs by the built-in table of names.
        extra: Further JSON values for ``config.vbp`` (criterion, compensation, ...).

    Raises:
        ConfigurationError: The lists differ in length, are empty, or hold other values than widths.
    """
    _write(config, widths, dense_widths, modules, extra, has_intermediate_size(config, len(widths)))


def _write(
    config: Any,
    widths: Sequence[int],
    dense_widths: Sequence[int],
    modules: Sequence[tuple[str, str]],
    extra: Mapping[str, Any] | None,
    real_width: bool,
) -> None:
    widths, dense_widths = [int(width) for width in widths], [int(width) for width in dense_widths]
    if not widths or len(widths) != len(dense_widths) or min(widths) < 0 or min(dense_widths) < 0:
        raise ConfigurationError(
            f"widths {widths} and dense_widths {dense_widths} must hold one whole number for each MLP of the model."
        )
    if len(modules) not in (0, len(widths)):
        raise ConfigurationError(f"modules names {len(modules)} MLPs, expected a pair of names for {len(widths)}.")
    _clear(config)
    if real_width and len(set(widths)) == 1:
        config.intermediate_size = widths[0]
        return
    record: dict[str, Any] = {"version": RECORD_VERSION, "widths": widths, "dense_widths": dense_widths}
    if modules:
        # One pair is enough where all MLPs have the same names.
        record["modules"] = [list(pair) for pair in (modules if len(set(modules)) > 1 else modules[:1])]
    config.vbp = {**record, **{name: value for name, value in (extra or {}).items() if name not in _KEYS}}
    if real_width:
        # Blocks that have the global value get no entry, so it must be the dense width.
        config.intermediate_size = max(dense_widths)
        config.per_layer_config = {index: {"intermediate_size": width} for index, width in enumerate(widths)}


def record_pruning(
    model: Any,
    linears: Sequence[tuple[str, str]],
    dense_widths: Sequence[int],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record the widths that the MLPs of a pruned model have, with the local names of their linears, in its config.

    The record covers every MLP with these names, so that it is complete where only some of them were pruned. The
    widths before an earlier pruning are kept.

    Args:
        model: A transformers model that was just pruned.
        linears: The qualified names of the two linears of each pruned MLP, in block order.
        dense_widths: The widths of these MLPs before this pruning.
        extra: As for :func:`write_widths`.

    Raises:
        UnsupportedModelError: The MLPs cannot be found again by the local names of their linears.
    """
    pairs = locate(model, linears)
    before = dict(zip(linears, dense_widths, strict=True))
    dense = [before.get((pair.fc1_name, pair.fc2_name), pair.fc1.out_features) for pair in pairs]
    earlier = (vars(model.config).get("vbp") or {}).get("dense_widths", ())
    _write(
        model.config,
        [pair.fc1.out_features for pair in pairs],
        earlier if len(earlier) == len(pairs) else dense,
        [pair.names for pair in pairs],
        extra,
        has_real_width(model.config, dense),
    )


def locate(model: nn.Module, linears: Sequence[tuple[str, str]]) -> list[MLPPair]:
    """Return the MLPs that a record of these linears describes: all that have their local names, in block order.

    Args:
        model: The model that holds them.
        linears: The qualified names of the two linears of each MLP to record.

    Raises:
        UnsupportedModelError: One of them would not be found again when the checkpoint is loaded.
    """
    names = tuple(dict.fromkeys(local_names(up, down) for up, down in linears))
    for include_all in (False, True):
        pairs = modeling_hf_vbp.search(model, names, include_all)
        missing = set(linears) - {(pair.fc1_name, pair.fc2_name) for pair in pairs}
        # As in loading, which must find the same MLPs by the record.
        record = Record(tuple(pair.fc1.out_features for pair in pairs), tuple(pair.names for pair in pairs))
        if not missing and find_pairs(model, record) == pairs:
            return pairs
    shown = sorted(missing)[0] if missing else linears[0]
    raise UnsupportedModelError(
        f"The linears {shown[0]} and {shown[1]} cannot be found again by their local names when a checkpoint is "
        "loaded, so a pruned model could not be saved. Expected two torch.nn.Linear, the first with as many outputs "
        "as the second has inputs. Check the adapter of this model, see docs/adapters.md."
    )


def local_names(up: str, down: str) -> tuple[str, str]:
    """Return the names of two modules relative to the nearest module that holds both.

    Local names are recorded, because qualified names differ between transformers 4 and 5.

    Example:
        >>> local_names("encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense")
        ('intermediate.dense', 'output.dense')
    """
    first, second = up.split("."), down.split(".")
    while len(first) > 1 and len(second) > 1 and first[0] == second[0]:
        first, second = first[1:], second[1:]
    return ".".join(first), ".".join(second)


def read_widths(config: Any) -> list[int] | None:
    """Return the widths that a config records in ``vbp``, in block order, or None.

    Raises:
        CheckpointError: The record is malformed, or was written by a newer version.
    """
    try:
        record = read_record(config)
    except ValueError as error:
        raise CheckpointError(f"{getattr(config, 'name_or_path', '') or 'This config'}: {one_line(error)}") from error
    return None if record is None else list(record.widths)


def check_recorded(model: Any) -> None:
    """Refuse to save a model whose MLPs could not be rebuilt from its config.

    Raises:
        CheckpointError: The widths in the config are not those of the model.
    """
    recorded = read_widths(model.config)
    widths = [pair.fc1.out_features for pair in find_pairs(model, read_record(model.config))]
    if recorded is None and widths and has_intermediate_size(model.config, len(widths)):
        recorded = [vars(model.config)["intermediate_size"]] * len(widths)
    if recorded is not None and recorded != widths:
        raise CheckpointError(
            f"The MLPs of the model have the widths {widths}, but its config records {recorded}. Record them with "
            "hf_vbp.modeling.config_record.write_widths(model.config, widths, dense_widths=...) before saving."
        )


def _clear(config: Any) -> None:
    forget_remote_code(config)
    vars(config).pop("vbp", None)
    if getattr(config, "is_heterogeneous", False):
        config.per_layer_config = None


def has_intermediate_size(config: Any, blocks: int) -> bool:
    """Return whether a config has one ``intermediate_size`` for exactly this number of blocks."""
    # Own attributes only: in Swin, SegFormer and others `num_hidden_layers` is an alias for the number of stages.
    own = vars(config)
    return type(own.get("intermediate_size")) is int and own.get("num_hidden_layers") == blocks


def has_real_width(config: Any, widths: Sequence[int]) -> bool:
    """Return whether ``intermediate_size`` of a config is the width that transformers gives the MLPs of a model.

    Args:
        config: The config of the model.
        widths: The present widths of its MLPs, in block order.
    """
    if not has_intermediate_size(config, len(widths)):
        return False
    return bool(getattr(config, "is_heterogeneous", False)) or set(widths) == {vars(config)["intermediate_size"]}


def forget_remote_code(config: Any) -> None:
    """Remove the entries for the modeling file from the ``auto_map`` of a config.

    A native class saves its config without the file, so the config in memory must not name it.
    """
    entries = vars(config).get("auto_map")
    if isinstance(entries, dict):
        kept = {name: value for name, value in entries.items() if _module_of(value) != _MODELING_MODULE}
        if kept:
            config.auto_map = kept
        else:
            del config.auto_map


def _module_of(reference: Any) -> str:
    return str(reference).rpartition("--")[2].rpartition(".")[0]
