"""How the widths of a pruned model are written to its config."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_vbp.errors import CheckpointError, ConfigurationError
from hf_vbp.modeling.modeling_hf_vbp import RECORD_VERSION, find_pairs, recorded_widths


def write_widths(
    config: Any, widths: Sequence[int], *, dense_widths: Sequence[int], extra: Mapping[str, Any] | None = None
) -> None:
    """Record the widths of the MLPs in a config, in place, so that ``save_pretrained`` alone writes them.

    - Equal widths in a family with a real ``intermediate_size``: only ``intermediate_size``, which every
      transformers loads.
    - Otherwise ``config.vbp``, which is the truth, and besides it, where the family has a real
      ``intermediate_size`` per block, upstream's ``per_layer_config``. Reading ``config.intermediate_size`` then
      raises ``AmbiguousGlobalPerLayerAttributeError``; read ``config.vbp["widths"]`` or
      ``config.per_layer_config[i].intermediate_size``.

    Records of an earlier pruning are replaced.

    Args:
        config: The ``PreTrainedConfig`` of the model.
        widths: One width per MLP, in the order of the blocks; 0 is allowed.
        dense_widths: The same before any pruning.
        extra: Further JSON values for ``config.vbp`` (criterion, compensation, ...).

    Raises:
        ConfigurationError: The two lists differ in length, are empty, or hold something else than widths.
    """
    widths, dense_widths = [int(width) for width in widths], [int(width) for width in dense_widths]
    if not widths or len(widths) != len(dense_widths) or min(widths) < 0 or min(dense_widths) < 0:
        raise ConfigurationError(
            f"widths {widths} and dense_widths {dense_widths} must hold one whole number for each MLP of the model."
        )
    _clear(config)
    real_width = has_real_width(config, len(widths))
    if real_width and len(set(widths)) == 1:
        config.intermediate_size = widths[0]
        return
    config.vbp = {
        "version": RECORD_VERSION,
        "widths": widths,
        "dense_widths": dense_widths,
        **{name: value for name, value in (extra or {}).items() if name not in {"version", "widths", "dense_widths"}},
    }
    if real_width:
        # The global value has to differ from none of the overrides by accident: it stays the dense width.
        config.intermediate_size = max(dense_widths)
        config.per_layer_config = {index: {"intermediate_size": width} for index, width in enumerate(widths)}


def read_widths(config: Any) -> list[int] | None:
    """Return the widths that a config records in ``vbp``, in the order of the blocks, or None.

    Raises:
        CheckpointError: The record is malformed, or was written by a newer version.
    """
    try:
        return recorded_widths(config)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def check_recorded(model: Any) -> None:
    """Refuse a model whose config would not lead back to its MLPs.

    Raises:
        CheckpointError: The widths in the config are not those of the model.
    """
    widths = [pair.fc1.out_features for pair in find_pairs(model)]
    recorded = read_widths(model.config)
    if recorded is None and widths and has_real_width(model.config, len(widths)):
        recorded = [model.config.intermediate_size] * len(widths)
    if recorded is not None and recorded != widths:
        raise CheckpointError(
            f"The MLPs of the model have the widths {widths}, but its config records {recorded}. Record them with "
            "hf_vbp.checkpoint.write_widths(model.config, widths, dense_widths=...) before saving."
        )


def _clear(config: Any) -> None:
    forget_remote_code(config)
    vars(config).pop("vbp", None)
    if getattr(config, "is_heterogeneous", False):
        config.per_layer_config = None


def has_real_width(config: Any, blocks: int) -> bool:
    """Tell whether a config has an ``intermediate_size`` of its own for each of so many blocks."""
    # Own attributes only: in Swin, SegFormer and others `num_hidden_layers` is an alias for the number of stages.
    own = vars(config)
    return type(own.get("intermediate_size")) is int and own.get("num_hidden_layers") == blocks


def forget_remote_code(config: Any) -> None:
    """Take the entries for our remote file out of a config's ``auto_map``.

    A native class saves its config without the file, so the config in memory must not name it.
    """
    entries = vars(config).get("auto_map")
    if isinstance(entries, dict):
        kept = {
            name: value for name, value in entries.items() if ".".join(_reference(value)[:-1]) != "modeling_hf_vbp"
        }
        if kept:
            config.auto_map = kept
        else:
            del config.auto_map


def _reference(value: Any) -> list[str]:
    return str(value).rpartition("--")[2].split(".")
