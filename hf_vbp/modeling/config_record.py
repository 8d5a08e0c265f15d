"""Write the widths and the merged tokens of a model to its config, and read them back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from hf_vbp.files.layout import MODELING_MODULE
from hf_vbp.modeling import modeling_hf_vbp
from hf_vbp.modeling.modeling_hf_vbp import (
    MLP,
    RECORD_VERSION,
    Layout,
    Record,
    find_mlps,
    find_tower,
    layout_entry,
    merged_tokens,
    pruned_parts,
    record_merged_tokens,
    recorded_parts,
    recorded_widths,
)

# Their constructors build a decoder from a copy of the config, which must have one intermediate_size.
_COPIED = ("vit_mae", "videomae", "clipseg_vision_model", "xclip_vision_model")
_KEYS = {"version", "widths", "dense_widths", "modules", "merged_tokens"}


def write_widths(
    config: Any,
    widths: Sequence[int],
    *,
    dense_widths: Sequence[int],
    modules: Sequence[Layout] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record the widths of the MLPs in a config, in place, so that ``save_pretrained`` alone writes them.

    - Equal widths in a family with one ``intermediate_size`` for all blocks: only ``intermediate_size``, which every
      version of transformers loads.
    - Otherwise ``config.vbp``, which is authoritative. Where the family has one ``intermediate_size`` for all blocks,
      upstream's ``per_layer_config`` is written in addition. Reading ``config.intermediate_size`` then raises
      ``AmbiguousGlobalPerLayerAttributeError``; read ``config.vbp["widths"]`` or
      ``config.per_layer_config[i].intermediate_size``.

    Records of an earlier pruning are replaced; the record of merged tokens is kept.

    Args:
        config: The ``PreTrainedConfig`` of the model.
        widths: One width per MLP, in block order; 0 is allowed.
        dense_widths: The widths before any pruning.
        modules: The layout of each MLP, in block order. Without layouts, reloading finds the MLPs by the table.
        extra: Further JSON values for ``config.vbp`` (criterion, compensation, ...).

    Raises:
        ConfigurationError: The lists differ in length, are empty, or hold other values than widths.
    """
    _write(config, widths, dense_widths, modules, extra, has_intermediate_size(config, len(widths)))


def _write(
    config: Any,
    widths: Sequence[int],
    dense_widths: Sequence[int],
    modules: Sequence[Layout],
    extra: Mapping[str, Any] | None,
    real_width: bool,
) -> None:
    widths, dense_widths = [int(width) for width in widths], [int(width) for width in dense_widths]
    if not widths or len(widths) != len(dense_widths) or min(widths) < 0 or min(dense_widths) < 0:
        raise ConfigurationError(
            f"widths {widths} and dense_widths {dense_widths} must hold one whole number for each MLP of the model."
        )
    if len(modules) not in (0, len(widths)):
        raise ConfigurationError(
            f"modules describes {len(modules)} MLPs, expected a layout for each of {len(widths)}."
        )
    merged = (vars(config).get("vbp") or {}).get("merged_tokens", ())
    _clear(config)
    if real_width and len(set(widths)) == 1:
        config.intermediate_size = widths[0]
        record_merged_tokens(config, merged)
        return
    record: dict[str, Any] = {"version": RECORD_VERSION, "widths": widths, "dense_widths": dense_widths}
    if modules:
        # One layout is enough where all MLPs have the same names.
        record["modules"] = [layout_entry(one) for one in (modules if len(set(modules)) > 1 else modules[:1])]
    config.vbp = {**record, **{name: value for name, value in (extra or {}).items() if name not in _KEYS}}
    record_merged_tokens(config, merged)
    if real_width:
        # Blocks that have the global value get no entry, so it must be the dense width.
        config.intermediate_size = max(dense_widths)
    if real_width and getattr(config, "model_type", None) not in _COPIED:
        config.per_layer_config = {index: {"intermediate_size": width} for index, width in enumerate(widths)}


def record_pruning(
    model: Any,
    mlps: Sequence[Layout],
    dense_widths: Sequence[int],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record the widths that the MLPs of a pruned model have, with the names of their modules, in its configs.

    Each MLP is recorded in the config that builds it: that of the vision tower or of the backbone, where the model has
    one. The record covers every MLP with these names, so that it is complete where only some of them were pruned. The
    widths before an earlier pruning are kept.

    Args:
        model: A transformers model that was just pruned.
        mlps: The layout of each pruned MLP, with qualified names, in block order.
        dense_widths: The widths of these MLPs before this pruning.
        extra: As for :func:`write_widths`.

    Raises:
        UnsupportedModelError: The MLPs cannot be found again by the local names of their modules.
    """
    before = dict(zip(mlps, dense_widths, strict=True))
    for part in locate(model, mlps):
        dense = [before.get(part.qualified(mlp), mlp.width) for mlp in part.mlps]
        for config in part.configs:
            earlier = (vars(config).get("vbp") or {}).get("dense_widths", ())
            _write(
                config,
                [mlp.width for mlp in part.mlps],
                earlier if len(earlier) == len(part.mlps) else dense,
                [mlp.layout for mlp in part.mlps],
                extra,
                has_real_width(config, dense),
            )


def record_merging(model: Any, counts: Sequence[int]) -> None:
    """Record the number of tokens that a model merges before each block, in the config that builds the blocks.

    Args:
        model: A model whose tokens can be merged.
        counts: One number per block; where all are 0, an earlier record is removed.
    """
    tower, owners = find_tower(model), _owners(model)
    for config in owners.parts[owners.part_of(tower.name if tower else "")][1]:
        record_merged_tokens(config, list(counts))
        if not any(counts):
            forget_remote_code(config)


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a model that one config builds, and its MLPs.

    Attributes:
        name: Qualified name of its outermost module; empty for the whole model.
        module: Its outermost module.
        configs: Its config, and that in the config of the model which it is a copy of.
        mlps: Its MLPs in block order, named relative to the part.
    """

    name: str
    module: nn.Module
    configs: tuple[Any, ...]
    mlps: tuple[MLP, ...]

    def qualified(self, mlp: MLP) -> Layout:
        """Return the layout of an MLP with the names that its modules have in the model."""
        return qualified_layout(mlp, self.name)


def locate(model: nn.Module, mlps: Sequence[Layout]) -> list[Part]:
    """Return the parts of a model that hold these MLPs, with all MLPs that have the same local names.

    Args:
        model: The model that holds them.
        mlps: The layout of each MLP to record, with qualified names.

    Raises:
        UnsupportedModelError: One of them would not be found again when the checkpoint is loaded.
    """
    owners = _owners(model)
    by_part: dict[str, list[Layout]] = {}
    for mlp in mlps:
        parent, _ = split_layout(mlp)
        by_part.setdefault(owners.part_of(parent), []).append(mlp)
    return [_locate_in(owners, part, own) for part, own in by_part.items()]


def _locate_in(owners: "_Owners", part: str, mlps: Sequence[Layout]) -> Part:
    module, configs = owners.parts[part]
    wanted = {_relative(mlp, part) for mlp in mlps}
    layouts = tuple(dict.fromkeys(split_layout(mlp)[1] for mlp in mlps))
    for include_all in (False, True):
        found = modeling_hf_vbp.search(module, layouts, include_all, exact=True)
        missing = wanted - {qualified_layout(mlp) for mlp in found}
        # As in loading, which must find the same MLPs by the record.
        record = Record(tuple(mlp.width for mlp in found), tuple(mlp.layout for mlp in found))
        if not missing and [mlp.names for mlp in find_mlps(module, record)] == [mlp.names for mlp in found]:
            return Part(part, module, configs, tuple(found))
    shown = sorted(missing)[0] if missing else mlps[0]
    raise UnsupportedModelError(
        f"The linears {shown.ups[0]} and {shown.down} cannot be found again by their local names when a checkpoint is "
        "loaded, so a pruned model could not be saved. Expected linears (or 1x1 convolutions), the first with as many "
        "outputs as the second has inputs. Check the adapter of this model, see docs/adapters.md."
    )


class _Owners:
    """Finds the config that builds each module of a model."""

    def __init__(self, parts: dict[str, tuple[nn.Module, tuple[Any, ...]]]) -> None:
        self.parts = parts

    def part_of(self, name: str) -> str:
        """Return the name of the innermost part that holds a module."""
        inside = [part for part in self.parts if not part or f"{name}.".startswith(f"{part}.")]
        return max(inside, key=len)


def _owners(model: nn.Module) -> _Owners:
    root: Any = model.config
    tree = modeling_hf_vbp.config_tree(root)
    parts: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {"": (model, (root,))}
    owners, seen = _Owners(parts), {id(root)}
    for name, module in model.named_modules():
        config = vars(module).get("config")
        if config is None or id(config) in seen or not hasattr(config, "model_type"):
            continue
        seen.add(id(config))
        inside = [one for one in tree if one is config or _is_copy(one, config)]
        outer = owners.part_of(name)
        # A copy of the config of the part around it builds nothing of its own.
        if inside and not any(one is inside[0] for one in parts[outer][1]):
            parts[name] = (module, tuple({id(one): one for one in (inside[0], config)}.values()))
    return owners


def _is_copy(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one.to_dict() == other.to_dict()


def qualified_layout(mlp: MLP, part: str = "") -> Layout:
    """Return the layout of an MLP with qualified names.

    Args:
        mlp: The MLP.
        part: Qualified name of the module that it was searched in.
    """
    prefix = ".".join(filter(None, (part, mlp.parent)))
    return _renamed(mlp.layout, lambda name: f"{prefix}.{name}" if prefix else name)


def split_layout(mlp: Layout) -> tuple[str, Layout]:
    """Return the name of the nearest module that holds all modules of an MLP, and the layout relative to it.

    Local names are recorded, because qualified names differ between transformers 4 and 5.

    Example:
        >>> split_layout(Layout(("encoder.layer.0.intermediate.dense",), "encoder.layer.0.output.dense"))[1].down
        'output.dense'
    """
    names = [name.split(".") for name in (*mlp.ups, mlp.down, *mlp.between, *filter(None, [mlp.after]))]
    shared = 0
    while all(len(name) > shared + 1 for name in names) and len({name[shared] for name in names}) == 1:
        shared += 1
    return ".".join(names[0][:shared]), _renamed(mlp, lambda name: ".".join(name.split(".")[shared:]))


def _relative(mlp: Layout, part: str) -> Layout:
    return _renamed(mlp, lambda name: name.removeprefix(f"{part}.") if part else name)


def _renamed(layout: Layout, rename: Callable[[str], str]) -> Layout:
    after = rename(layout.after) if layout.after else ""
    between = tuple(rename(name) for name in layout.between)
    return Layout(tuple(rename(name) for name in layout.ups), rename(layout.down), between, after, layout.packed)


def read_widths(config: Any) -> list[int] | None:
    """Return the widths that a config and the configs inside it record, in block order, or None.

    Raises:
        CheckpointError: The record is malformed, or was written by a newer version.
    """
    try:
        return recorded_widths(config)
    except ValueError as error:
        raise CheckpointError(f"{getattr(config, 'name_or_path', '') or 'This config'}: {one_line(error)}") from error


def check_recorded(model: Any) -> None:
    """Refuse to save a model that could not be rebuilt from its config.

    Raises:
        CheckpointError: The widths or the merged tokens in the config are not those of the model.
    """
    read_widths(model.config)
    recorded = next((part.merged_tokens for _, _, part in recorded_parts(model) if part.merged_tokens), ())
    if recorded != merged_tokens(model):
        raise CheckpointError(
            f"The model merges {list(merged_tokens(model))} tokens before its blocks, but its config records "
            f"{list(recorded)}. Set both with hf_vbp.merge_tokens(model, r) before saving."
        )
    parts = pruned_parts(model)
    for _, module, record in parts:
        _check_part([mlp.width for mlp in find_mlps(module, record)], list(record.widths))
    if not parts:
        widths = [mlp.width for mlp in find_mlps(model)]
        if widths and has_intermediate_size(model.config, len(widths)):
            _check_part(widths, [vars(model.config)["intermediate_size"]] * len(widths))


def _check_part(widths: list[int], recorded: list[int]) -> None:
    if recorded != widths:
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
        kept = {name: value for name, value in entries.items() if _module_of(value) != MODELING_MODULE}
        if kept:
            config.auto_map = kept
        else:
            del config.auto_map


def _module_of(reference: Any) -> str:
    return str(reference).rpartition("--")[2].rpartition(".")[0]
