"""The modeling file of a checkpoint of hf_vbp: MLPs whose width differs from block to block, and merged tokens.

A model pruned with hf_vbp is an ordinary transformers model whose MLPs differ in width. The config that builds the
MLPs (the root of ``config.json``, or its ``vision_config``, ``backbone_config``, ...) records the widths in block
order, with the names of the modules of each MLP::

    {"vbp": {"version": 2, "widths": [411, 803, ...], "modules": [["fc1", "fc2"]], ...}}

A model that merges tokens records the number of tokens that are merged before each block::

    {"vbp": {"version": 3, "merged_tokens": [0, 13, 13, ...]}}

This file builds the model that fits the record. It needs torch and transformers (4.57 or newer) and nothing else,
and is part of the checkpoint, so that ``trust_remote_code=True`` loads it where hf_vbp is not installed::

    from transformers import AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)

The classes are derived on demand from those of transformers, have the same names, and change only the widths and the
hooks that merge tokens.
"""

import copy
import inspect
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

RECORD_VERSION = 2
"""The version of a record of widths."""
MERGING_VERSION = 3
"""The version of a record of merged tokens, which readers of widths alone must refuse."""
_READABLE_VERSIONS = (1, 2, 3)


class Layout(NamedTuple):
    """The modules of one MLP, by their names relative to the nearest module that holds all of them.

    Attributes:
        ups: The up projections: one, or the gate and the up projection of a gated MLP.
        down: The down projection, whose inputs are the hidden neurons.
        between: Modules with one entry per neuron between them: depthwise convolutions and normalizations.
        after: A BatchNorm behind ``down``, whose running mean takes the place of a bias.
        packed: Whether the up projection holds the gate and the up projection, one after the other.
    """

    ups: "tuple[str, ...]"
    down: str
    between: "tuple[str, ...]" = ()
    after: str = ""
    packed: bool = False


# All MLPs of the vision models of transformers and timm. `between` and `after` name modules that may be missing.
LAYOUTS = (
    Layout(("fc1",), "fc2", ("dwconv.dwconv", "dwconv", "grn", "norm")),
    Layout(("dense1",), "dense2", ("dwconv.dwconv", "dwconv")),
    Layout(("intermediate.dense",), "output.dense"),
    Layout(("gate_proj", "up_proj"), "down_proj", ("ffn_layernorm", "norm")),
    Layout(("up_proj",), "down_proj"),
    Layout(("pwconv1",), "pwconv2", ("grn",)),
    Layout(("pointwise_conv1",), "pointwise_conv2", ("grn",)),
    Layout(("point_wise_conv1",), "point_wise_conv2"),
    Layout(("lin1",), "lin2"),
    Layout(("linear1",), "linear2"),
    Layout(("linear_fc1",), "linear_fc2"),
    Layout(("proj_in",), "proj_out"),
    Layout(("c_fc",), "c_proj"),
    Layout(("conv1",), "conv2"),
    Layout(("conv1.convolution",), "conv2.convolution", ("conv1.normalization",), "conv2.normalization"),
    Layout(("linear_up.linear",), "linear_down.linear", ("linear_up.batch_norm",), "linear_down.batch_norm"),
    Layout(("fc1_g", "fc1_x"), "fc2", ("norm",)),
    Layout(("weights_in",), "weights_out"),
    Layout(("w1", "w2"), "w3", ("norm",)),
    Layout(("w12",), "w3", ("norm",)),
)
"""The table of MLPs: one row per layout."""

LEFT_OUT = {
    r"text|language|lm_head|qformer|bert|gpt": "it belongs to a text tower",
    r"decoder|prompt_encoder": "it belongs to a decoder",
    r"^head$|heads?$|classifier|pooler|pooling|_embed$|predictor": "it belongs to a head",
    r"projector|projection|connector|merger": "it connects towers",
    r"^se$|squeeze": "it is a gate of channels, not an MLP",
}
"""Modules that are not pruned: a regular expression for one part of a qualified name, and the reason."""

_OF_DETECTOR = (r"^(\w+\.)?(model\.)?encoder\.", "it belongs to the detector, not to its backbone")
LEFT_OUT_OF = dict.fromkeys(
    (
        "detr",
        "table-transformer",
        "conditional_detr",
        "deformable_detr",
        "dab-detr",
        "rt_detr",
        "rt_detr_v2",
        "d_fine",
    ),
    _OF_DETECTOR,
)
LEFT_OUT_OF["git"] = (r"^(git\.)?encoder\.", "it belongs to a text tower")
"""The same for single families: model type to a regular expression for the qualified name, and the reason."""


class MLP(NamedTuple):
    """One MLP of a model.

    Attributes:
        parent: Qualified name of the nearest module that holds all of its modules.
        layout: The names of its modules relative to the parent; only those that exist.
        ups: The up projections.
        down: The down projection.
        between: The modules with one entry per neuron.
        after: The BatchNorm behind ``down``, or None.
    """

    parent: str
    layout: Layout
    ups: "tuple[Any, ...]"
    down: Any
    between: "tuple[Any, ...]" = ()
    after: Any = None

    @property
    def width(self) -> int:
        """The number of hidden neurons."""
        return in_width(self.down)

    @property
    def names(self) -> "tuple[str, ...]":
        """Qualified names of all modules that hold weights of the MLP."""
        local = (*self.layout.ups, *self.layout.between, self.layout.down, *filter(None, [self.layout.after]))
        return tuple(f"{self.parent}.{name}" if self.parent else name for name in local)

    @property
    def modules(self) -> "tuple[tuple[Any, str], ...]":
        """All modules with their roles (``"up"``, ``"between"``, ``"down"``, ``"after"``), in the order of names."""
        after = () if self.after is None else ((self.after, "after"),)
        inner = tuple((module, "between") for module in self.between)
        return (*((module, "up") for module in self.ups), *inner, (self.down, "down"), *after)


class Record(NamedTuple):
    """What ``config.vbp`` records.

    Attributes:
        widths: One width per MLP, in block order.
            Empty where the record holds none.
        modules: The layout of each MLP, in block order; empty in records that hold no names (version 1).
        merged_tokens: The number of tokens that are merged before each block; empty where none are.
    """

    widths: "tuple[int, ...]"
    modules: "tuple[Layout, ...]" = ()
    merged_tokens: "tuple[int, ...]" = ()


def is_projection(module: Any) -> bool:
    """Whether a module is a linear layer: a Linear, a 1x1 convolution, or a Conv1D of transformers."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _input_axis(module: Any) -> int:
    return 0 if type(module).__name__ == "Conv1D" else 1


def in_width(module: Any) -> int:
    """Return the number of inputs of a projection."""
    return int(module.weight.shape[_input_axis(module)])


def out_width(module: Any) -> int:
    """Return the number of outputs of a projection."""
    return int(module.weight.shape[1 - _input_axis(module)])


def find_mlps(model: nn.Module, record: "Record | None" = None) -> "list[MLP]":
    """List the MLPs of a model by the names of their modules, in block order.

    No forward pass is made, so this works on the meta device too.

    With a record, the MLPs that it describes: those with the recorded names. Where the model has no such MLPs,
    because its modules have other names in this version of transformers, and without a record, the MLPs whose names
    are in :data:`LAYOUTS`, except those of :data:`LEFT_OUT`.
    """
    if record is not None and record.modules:
        layouts = tuple(dict.fromkeys(record.modules))
        for include_all in (False, True):
            mlps = search(model, layouts, include_all, exact=True)
            if tuple(mlp.layout for mlp in mlps) == record.modules:
                return mlps
    return search(model, LAYOUTS, include_all=False)


def search(model: nn.Module, layouts: "tuple[Layout, ...]", include_all: bool, exact: bool = False) -> "list[MLP]":
    """List the MLPs of a model that have one of the given layouts, in block order.

    Args:
        model: The model.
        layouts: The layouts; of two that share a down projection, the first counts.
        include_all: Whether to include what :data:`LEFT_OUT` names.
        exact: Whether all modules that a layout names must exist, and packed ones must be marked.
    """
    mlps, taken = [], set()
    model_type = getattr(vars(model).get("config"), "model_type", "")
    for parent_name, parent in model.named_modules():
        if include_all or why_left_out(parent_name, model_type) is None:
            for layout in layouts:
                mlp = _match(parent_name, parent, layout, exact)
                if mlp is not None and mlp.down not in taken:
                    taken.add(mlp.down)
                    mlps.append(mlp)
    return mlps


def why_left_out(name: str, model_type: str = "") -> "str | None":
    """Return why the MLP with this qualified name is not pruned, or None where it is.

    Args:
        name: Qualified name of the module that holds the MLP.
        model_type: The model type of the model.
    """
    pattern, reason = LEFT_OUT_OF.get(model_type, (r"(?!)", ""))
    if re.search(pattern, f"{name}."):
        return reason
    for part in name.split("."):
        for pattern, reason in LEFT_OUT.items():
            if re.search(pattern, part):
                return reason
    return None


def _child(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


def _match(parent_name: str, parent: Any, layout: Layout, exact: bool) -> "MLP | None":
    ups, down = tuple(_child(parent, path) for path in layout.ups), _child(parent, layout.down)
    if not all(map(is_projection, (*ups, down))):
        return None
    width, outs = in_width(down), {out_width(up) for up in ups}
    packed = layout.packed if exact else outs == {2 * width} and width > 0 and len(ups) == 1
    # A module that is registered twice, as in tied or wrapped blocks, is one projection, not two.
    if outs != {2 * width if packed else width} or down in ups:
        return None
    if not exact and out_width(down) != in_width(ups[0]):
        return None
    found = {path: _child(parent, path) for path in (*layout.between, *filter(None, [layout.after]))}
    if exact and None in found.values():
        return None
    between = tuple(path for path in layout.between if exact or _has_entries(found[path], width))
    after = layout.after if exact or _has_entries(found.get(layout.after), out_width(down)) else ""
    named = Layout(layout.ups, layout.down, between, after, packed)
    return MLP(parent_name, named, ups, down, tuple(found[path] for path in between), found[after] if after else None)


def _has_entries(module: Any, width: int) -> bool:
    # Identity and containers have no tensors of their own.
    tensors = [] if module is None else _tensors(module)
    return any(width in tensor.shape for _, tensor in tensors)


def _tensors(module: nn.Module) -> "list[tuple[str, torch.Tensor]]":
    own = (*module._parameters.items(), *module._buffers.items())
    return [(name, tensor) for name, tensor in own if tensor is not None and tensor.dim() > 0]


def neuron_axes(module: nn.Module, role: str, width: int) -> "dict[str, int]":
    """Return the axis of the hidden neurons in each tensor of a module of an MLP; tensors without one have no entry.

    Args:
        module: The module.
        role: Its role, see :attr:`MLP.modules`.
        width: The number of hidden neurons.
    """
    if role == "after":
        return {}
    if role == "down":
        return {"weight": _input_axis(module)}
    if role == "up":
        return {"weight": 1 - _input_axis(module), "bias": 0}
    axes = {}
    for name, tensor in _tensors(module):
        # A depthwise convolution has its channels first; GRN of ConvNeXtV2 has them last, (1, 1, 1, width).
        matching = [axis for axis, size in enumerate(tensor.shape) if size == width]
        if matching:
            axes[name] = 0 if 0 in matching else matching[-1]
    return axes


def take_neurons(mlp: MLP, kept: torch.Tensor, module: Any, role: str) -> Any:
    """Return a copy of a module of an MLP with these hidden neurons only; ``module`` is not changed.

    Args:
        mlp: The MLP.
        kept: ``(kept,)`` int64, ascending.
        module: One of its modules.
        role: Its role.
    """
    packed = mlp.layout.packed and role == "up"
    rows = torch.cat([kept, kept + mlp.width]) if packed else kept
    axes = neuron_axes(module, role, mlp.width)

    def cut(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in axes:
            return tensor.detach().clone()
        return tensor.detach().index_select(axes[name], rows.to(tensor.device)).contiguous()

    new = bare_copy(module)
    for name, tensor in _tensors(module):
        _put(new, name, tensor, cut(name, tensor))
    set_width(new, role, len(kept), mlp.layout.packed)
    return new


def bare_copy(module: Any) -> Any:
    """Return a module that shares its tensors with another one, has no hooks, and can be given other tensors."""
    new = copy.copy(module)
    for name, value in list(vars(new).items()):
        if name in ("_parameters", "_buffers", "_modules"):
            vars(new)[name] = dict(value)
        elif name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(new)[name] = type(value)()
    # Otherwise transformers would not initialize new parameters.
    vars(new).pop("_is_hf_initialized", None)
    return new


def _put(module: Any, name: str, old: torch.Tensor, value: torch.Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        module._buffers[name] = value


def set_width(module: Any, role: str, width: int, packed: bool = False) -> None:
    """Set the attributes in which a module of an MLP keeps the number of hidden neurons."""
    if role == "after":
        return
    if role == "between":
        names = ["in_channels", "out_channels", "groups", "num_features"]
        values: dict[str, Any] = dict.fromkeys(names, width)
        values["normalized_shape"] = (width,)
    elif role == "up":
        values = dict.fromkeys(["out_features", "out_channels", "nf"], width * (2 if packed else 1))
    else:
        values = dict.fromkeys(["in_features", "in_channels", "nx"], width)
    for name, value in values.items():
        if name in vars(module):
            setattr(module, name, value)


def config_tree(config: Any) -> "list[Any]":
    """List a config and the configs inside it, each once."""
    found: list[Any] = []
    queue = [config]
    while queue:
        one = queue.pop(0)
        if all(one is not other for other in found):
            found.append(one)
            queue.extend(value for value in vars(one).values() if _is_config(value))
    return found


def _is_config(value: Any) -> bool:
    return hasattr(type(value), "model_type") and hasattr(type(value), "from_pretrained") and hasattr(value, "to_dict")


def read_record(config: Any) -> "Record | None":
    """Return what a config records, or None where it holds no record of hf_vbp itself.

    Raises:
        ValueError: The record is malformed, or was written by a newer version.
    """
    record = getattr(config, "__dict__", {}).get("vbp")
    if not isinstance(record, dict) or not ({"version", "widths", "merged_tokens"} & record.keys()):
        return None
    version, widths, modules = record.get("version"), record.get("widths"), record.get("modules", [])
    if type(version) is not int or version not in _READABLE_VERSIONS:
        raise ValueError(
            f"config.vbp has version {version!r}, expected at most {MERGING_VERSION}. If it was written by a newer "
            "hf_vbp, upgrade hf_vbp; otherwise config.json was changed after saving: restore it."
        )
    merged_tokens = _read_merged_tokens(record, version)
    if merged_tokens and "widths" not in record:
        return Record((), (), merged_tokens)
    if not isinstance(widths, list) or not widths or not all(type(width) is int and width >= 0 for width in widths):
        raise ValueError(
            f"config.vbp['widths'] is {widths!r}, expected a list with a whole number for each MLP. "
            "config.json was changed after saving: restore it."
        )
    layouts = _read_layouts(modules)
    if layouts is None or len(layouts) not in (0, 1, len(widths)):
        raise ValueError(
            f"config.vbp['modules'] is {modules!r}, expected the names of the modules of each of {len(widths)} MLPs, "
            "or once for all. config.json was changed after saving: restore it."
        )
    return Record(tuple(widths), layouts * len(widths) if len(layouts) == 1 else layouts, merged_tokens)


def _read_merged_tokens(record: "dict[str, Any]", version: int) -> "tuple[int, ...]":
    if "merged_tokens" not in record and version < MERGING_VERSION:
        return ()
    merged: Any = record.get("merged_tokens")
    numbers = isinstance(merged, list) and bool(merged) and all(type(one) is int and one >= 0 for one in merged)
    if not numbers or merged[0] or version < MERGING_VERSION:
        raise ValueError(
            f"config.vbp['merged_tokens'] is {merged!r} in a record of version {version}, expected a list with a "
            f"whole number for each block, beginning with 0, in version {MERGING_VERSION}. config.json was changed "
            "after saving: restore it."
        )
    return tuple(merged)


def _read_layouts(modules: Any) -> "tuple[Layout, ...] | None":
    if not isinstance(modules, list):
        return None
    layouts = [_read_layout(entry) for entry in modules]
    return None if None in layouts else tuple(layout for layout in layouts if layout is not None)


def _read_layout(entry: Any) -> "Layout | None":
    if isinstance(entry, (list, tuple)):
        entry = {"ups": entry[:1], "down": entry[1]} if len(entry) == 2 else {}
    if not isinstance(entry, dict) or not {"ups", "down"} <= entry.keys() <= set(Layout._fields):
        return None
    ups, between = entry["ups"], entry.get("between", [])
    lists = isinstance(ups, (list, tuple)) and isinstance(between, (list, tuple)) and 1 <= len(ups) <= 2
    after, packed = entry.get("after", ""), entry.get("packed", False)
    if not lists or not isinstance(after, str) or not isinstance(packed, bool):
        return None
    if not all(isinstance(name, str) and name for name in (*ups, *between, entry["down"])):
        return None
    return Layout(tuple(ups), entry["down"], tuple(between), after, packed)


def layout_entry(layout: Layout) -> Any:
    """Return a layout as a record holds it: two names, or a dict where there are more."""
    if layout == Layout(layout.ups[:1], layout.down):
        return [layout.ups[0], layout.down]
    entry = {name: value for name, value in layout._asdict().items() if value}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in entry.items()}


def recorded_widths(config: Any) -> "list[int] | None":
    """Return the widths that a config and the configs inside it record, in block order, or None where there are none.

    Raises:
        ValueError: A record is malformed, or was written by a newer version.
    """
    records = [record for record in read_records(config) if record.widths]
    return [width for record in records for width in record.widths] if records else None


def read_records(config: Any) -> "list[Record]":
    """Return the records of a config and of the configs inside it.

    Raises:
        ValueError: A record is malformed, or was written by a newer version.
    """
    return [record for record in map(read_record, config_tree(config)) if record is not None]


def pruned_parts(model: nn.Module) -> "list[tuple[str, Any, Record]]":
    """List the parts of a model whose config records widths, as (qualified name, module, record).

    A pruned model is itself the one part, with the name ``""``; in a model with a pruned vision tower or backbone,
    that is the part.

    Raises:
        ValueError: A record is malformed, or was written by a newer version.
    """
    return [part for part in recorded_parts(model) if part[2].widths]


def recorded_parts(model: nn.Module) -> "list[tuple[str, Any, Record]]":
    """List the parts of a model whose config has a record, of widths or of merged tokens, as :func:`pruned_parts`.

    Raises:
        ValueError: A record is malformed, or was written by a newer version.
    """
    parts: list[tuple[str, Any, Record]] = []
    seen = set()
    for name, module in model.named_modules():
        config = vars(module).get("config")
        # Inner modules share the config of the part that they belong to, or have a copy of it.
        if config is not None and id(config) not in seen:
            seen.add(id(config))
            record = read_record(config)
            equal = [part for part, _, other in parts if other == record]
            inside = any(not part or f"{name}.".startswith(f"{part}.") for part in equal)
            if record is not None and not inside and not (equal and _has_other_mlps(module, record)):
                parts.append((name, module, record))
    return parts


def _has_other_mlps(module: Any, record: Record) -> bool:
    # Of a decoder that is built from a copy of the config of the encoder.
    return bool(record.widths) and len(find_mlps(module, record)) != len(record.widths)


def resize(model: nn.Module, widths: "list[int] | tuple[int, ...] | Record") -> bool:
    """Set the widths of the MLPs of a model, in place and in block order.

    Tensors keep their device and dtype (meta remains meta). The first neurons keep their weights, new neurons are
    zero. An MLP that has its width already is not changed.

    Args:
        model: Any model that holds the MLPs.
        widths: One width per MLP, or a record.

    Returns:
        Whether the model has as many MLPs as there are widths; if not, nothing was changed.
    """
    record = widths if isinstance(widths, Record) else Record(tuple(widths))
    mlps = find_mlps(model, record)
    if len(mlps) != len(record.widths):
        return False
    for mlp, width in zip(mlps, record.widths):  # noqa: B905 - lengths are equal, checked above
        before = mlp.width
        if before != width:
            for module, role in mlp.modules:
                _reshape(module, role, before, width, mlp.layout.packed)
    return True


def _reshape(module: Any, role: str, before: int, width: int, packed: bool) -> None:
    axes = neuron_axes(module, role, before)
    segments = 2 if packed and role == "up" else 1
    # The tensors are replaced one by one, because nn.Linear(0, n) warns about its own initialization.
    for name, old in _tensors(module):
        if name in axes:
            _put(module, name, old, _resized(old.detach(), axes[name], before, width, segments))
    set_width(module, role, width, packed)
    # Otherwise transformers would not initialize the new parameters.
    vars(module).pop("_is_hf_initialized", None)


def _resized(tensor: torch.Tensor, axis: int, before: int, width: int, segments: int) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[axis] = width * segments
    value, common = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device), min(before, width)
    for segment in range(segments):
        value.narrow(axis, segment * width, common).copy_(tensor.narrow(axis, segment * before, common))
    return value


# Token merging: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023.

LEADING_TOKENS = {
    "vit": 1,
    "deit": 2,
    "vit_msn": 1,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "ijepa": 0,
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
}
"""Model type of a vision tower to the number of class and distillation tokens, which are first and never merged.

Register tokens, of which the config gives the number, come next and are never merged either.
"""

USES_ALL_TOKENS = {
    "ViTForImageClassification": False,
    "DeiTForImageClassification": False,
    "DeiTForImageClassificationWithTeacher": False,
    "ViTMSNForImageClassification": False,
    "Dinov2ForImageClassification": True,
    "Dinov2WithRegistersForImageClassification": True,
    "IJepaForImageClassification": True,
    "CLIPForImageClassification": True,
    "CLIPModel": True,
    "CLIPVisionModel": True,
    "CLIPVisionModelWithProjection": True,
    "SiglipForImageClassification": True,
    "SiglipModel": True,
    "SiglipVisionModel": True,
}
"""The classes whose tokens can be merged, and whether their output is computed from, or holds, all tokens.

Where it does, each token is repeated after the last block, once for every token that was merged into it, so that means
and attention pools are weighted by size, and outputs have the shapes of the model without merging.
"""

_ATTENTION = ("sdpa", "eager")
# The size of a masked token: its logarithm removes it from the attention, and it adds nothing to an average.
_NO_SIZE = 1e-30


def match_tokens(
    keys: torch.Tensor, count: int, leading: int = 0, sizes: "torch.Tensor | None" = None
) -> torch.Tensor:
    """Match similar tokens: bipartite soft matching.

    Tokens at even positions belong to set A, those at odd positions to set B, except the leading tokens. Each token of
    A has one edge, to the token of B with the most similar key (cosine; of equal ones the first). The ``count`` edges
    of the highest similarity are chosen (of equal ones the first), and the two tokens of each are merged. The new
    order is: leading tokens, the remaining tokens of A, all tokens of B.

    Args:
        keys: ``(images, tokens, channels)``, one key per token.
        count: The number of tokens to remove, at most half of those that are not leading.
        leading: The number of first tokens that are not merged.
        sizes: ``(images, tokens)``. Masked tokens, which have almost no size, are merged first.

    Returns:
        ``(images, tokens)`` int64, the new position of each token, from 0 to ``tokens - count - 1``.
    """
    with torch.no_grad():
        free = nn.functional.normalize(keys[:, leading:].float(), dim=-1)
        odd = leading % 2
        a, b = free[:, odd::2], free[:, 1 - odd :: 2]
        similarity = a @ b.transpose(1, 2)
        if sizes is not None:
            masked = (sizes[:, leading:] <= 2 * _NO_SIZE).to(similarity.dtype)
            similarity = similarity + 8 * masked[:, odd::2, None] - 4 * masked[:, None, 1 - odd :: 2]
        best, partner = similarity.max(dim=-1)
        # The stable sort makes the result the same for every device and batch size.
        order = best.sort(dim=-1, descending=True, stable=True).indices
        removed = torch.zeros_like(best, dtype=torch.bool).scatter(1, order[:, :count], True)
        remaining = leading + a.shape[1] - count
        of_a = torch.where(removed, remaining + partner, leading + (~removed).cumsum(1) - 1)
        of_b = (remaining + torch.arange(b.shape[1], device=keys.device)).expand(keys.shape[0], -1)
        first = torch.arange(leading, device=keys.device).expand(keys.shape[0], -1)
        one, other = (of_b, of_a) if odd else (of_a, of_b)
        pairs = torch.stack([one[:, : other.shape[1]], other], dim=2).flatten(1)
        return torch.cat([first, pairs, one[:, other.shape[1] :]], dim=1)


def average_tokens(
    tokens: torch.Tensor, sizes: torch.Tensor, position: torch.Tensor, remaining: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Average the tokens that have the same new position, weighted by their sizes.

    Args:
        tokens: ``(images, tokens, channels)``.
        sizes: ``(images, tokens)`` float32, how many tokens of the image each of them stands for.
        position: ``(images, tokens)`` int64, the new position of each token.
        remaining: The number of new positions.

    Returns:
        The tokens ``(images, remaining, channels)`` and their sizes ``(images, remaining)``.
    """
    images, before, channels = tokens.shape
    total = sizes.new_zeros(images, remaining).scatter_add(1, position, sizes)
    # A token that is not merged has the weight 1, and does not change.
    weight = (sizes / total.gather(1, position)).to(tokens.dtype)
    row = position + remaining * torch.arange(images, device=position.device)[:, None]
    merged = tokens.new_zeros(images * remaining, channels)
    merged = merged.index_add(0, row.flatten(), (tokens * weight[..., None]).reshape(images * before, channels))
    return merged.view(images, remaining, channels), total


class Tower(NamedTuple):
    """The blocks of a vision transformer.

    Attributes:
        name: Qualified name of the part of the model that their config builds; empty for the whole model.
        config: This config.
        owner: The module whose forward runs the blocks.
        blocks: The blocks, in order.
        keys: The key projection of each block.
        mask: The name of the second argument of a block, an additive mask of the attention.
    """

    name: str
    config: Any
    owner: Any
    blocks: "tuple[Any, ...]"
    keys: "tuple[Any, ...]"
    mask: str

    @property
    def leading(self) -> int:
        """The number of class, distillation and register tokens."""
        return int(LEADING_TOKENS[self.config.model_type] + getattr(self.config, "num_register_tokens", 0))


def find_tower(model: nn.Module) -> "Tower | None":
    """Return the blocks of a model whose tokens can be merged, or None where it has none of a known structure."""
    for name, part in model.named_modules():
        config = vars(part).get("config")
        if getattr(config, "model_type", None) in LEADING_TOKENS:
            for owner in part.modules():
                for blocks in owner.children():
                    tower = _tower(name, config, owner, blocks) if isinstance(blocks, nn.ModuleList) else None
                    if tower is not None:
                        return tower
    return None


def _tower(name: str, config: Any, owner: Any, blocks: nn.ModuleList) -> "Tower | None":
    keys = [
        [module for path, module in block.named_modules() if path.rpartition(".")[2] in ("k_proj", "key")]
        for block in blocks
    ]
    if not keys or any(len(found) != 1 for found in keys):
        return None
    parameters = list(inspect.signature(type(blocks[0]).forward).parameters)
    mask = parameters[2] if len(parameters) > 2 else ""
    if parameters[1] != "hidden_states" or mask not in ("attention_mask", "head_mask"):
        return None
    return Tower(name, config, owner, tuple(blocks), tuple(found[0] for found in keys), mask)


class _Pass:
    """What one forward pass of a tower has merged so far."""

    def __init__(self) -> None:
        self.block = -1
        self.keys: torch.Tensor | None = None
        self.sizes: torch.Tensor | None = None
        self.merged = False
        self.position: torch.Tensor | None = None


class TokenMerging:
    """Merges the tokens of a tower before each block but the first, by the keys of the block before.

    Everything is done by hooks: of the module that runs the blocks, of the blocks, and of their key projections. The
    state of a forward pass belongs to its thread and is dropped at its end, also where the pass fails. A block that
    runs outside such a pass, as in the recomputation of gradient checkpointing, is not affected.
    """

    def __init__(self, tower: Tower, counts: "tuple[int, ...]", repeat: bool) -> None:
        self.counts = counts
        self.config = tower.config
        self.mask = tower.mask
        self.leading = tower.leading
        self.heads = int(tower.config.num_attention_heads)
        self.repeat = repeat
        self._local = threading.local()

    def __getstate__(self) -> "dict[str, Any]":
        return {name: value for name, value in vars(self).items() if name != "_local"}

    def __setstate__(self, state: "dict[str, Any]") -> None:
        vars(self).update(state, _local=threading.local())

    def install(self, tower: Tower) -> None:
        """Register the hooks."""
        tower.owner.register_forward_pre_hook(_Hook(self, "begin"))
        tower.owner.register_forward_hook(_Hook(self, "end"), always_call=True)
        for index, (block, key) in enumerate(zip(tower.blocks, tower.keys)):  # noqa: B905 - one key per block
            block.register_forward_pre_hook(_Hook(self, "before_block", index), with_kwargs=True)
            key.register_forward_hook(_Hook(self, "after_key", index))

    def _passes(self) -> "tuple[_Pass, ...]":
        return getattr(self._local, "passes", ())

    def begin(self, _: int, *__: Any) -> None:
        """Begin a forward pass; inside another one of the same thread, that one goes on afterwards."""
        self._local.passes = (*self._passes(), _Pass())

    def end(self, _: int, module: Any, args: Any, output: Any) -> Any:
        """End a forward pass, and repeat the tokens where the output is computed from all of them."""
        passes = self._passes()
        self._local.passes = passes[:-1]
        if output is None or not passes or not self.repeat or passes[-1].position is None:
            return None
        as_tuple = isinstance(output, tuple)
        tokens = output[0] if as_tuple else output["last_hidden_state"]
        tokens = tokens.gather(1, passes[-1].position[..., None].expand(-1, -1, tokens.shape[-1]))
        if as_tuple:
            return (tokens, *output[1:])
        output["last_hidden_state"] = tokens
        return output

    def after_key(self, index: int, module: Any, args: Any, output: torch.Tensor) -> None:
        """Keep the keys for the next block."""
        passes = self._passes()
        if passes and passes[-1].block == index and index + 1 < len(self.counts) and self.counts[index + 1]:
            passes[-1].keys = output.detach()

    def before_block(self, index: int, block: Any, args: Any, kwargs: Any) -> Any:
        """Merge tokens, and make the attention of the block proportional to their sizes."""
        passes = self._passes()
        if not passes:
            return None
        state = passes[-1]
        keys, state.keys, state.block = state.keys, None, index
        args = list(args)
        hidden = args[0] if args else kwargs["hidden_states"]
        if index == 0:
            self._check(block)
            mask = args[1] if len(args) > 1 else kwargs.get(self.mask)
            state.sizes = None if mask is None else _sizes_of_mask(mask, self.mask, hidden.shape[0])
            return None
        count = min(self.counts[index], (hidden.shape[1] - self.leading) // 2)
        if count > 0:
            hidden = self._merge(state, hidden, keys, count)
        if not state.merged:
            return None
        bias = state.sizes.log().to(hidden.dtype)[:, None, None]  # type: ignore[union-attr]
        for position, name, value in ((0, "hidden_states", hidden), (1, self.mask, bias)):
            if len(args) > position:
                args[position] = value
            else:
                kwargs = {**kwargs, name: value}
        return tuple(args), kwargs

    def _check(self, block: Any) -> None:
        used = self.config._attn_implementation
        # In transformers 4 the second argument of a block is a mask of heads: sdpa adds it, eager multiplies by it.
        allowed = _ATTENTION if self.mask == "attention_mask" else _ATTENTION[:1]
        if used not in allowed:
            raise ValueError(
                f"The attention implementation is {used!r}, but merged tokens need an additive mask of the attention: "
                f"expected {' or '.join(allowed)}. Use model.set_attn_implementation({allowed[0]!r})."
            )
        recomputed = getattr(block, "gradient_checkpointing", False) and block.training
        if recomputed and type(block).__call__ is not nn.Module.__call__:
            raise ValueError(
                "This version of transformers repeats the hooks of a block in gradient checkpointing, so tokens "
                "cannot be merged. Upgrade transformers, or train without gradient checkpointing."
            )

    def _merge(self, state: _Pass, hidden: torch.Tensor, keys: "torch.Tensor | None", count: int) -> torch.Tensor:
        if keys is None:
            raise RuntimeError(
                "The key projection of a block was replaced after merging of tokens was turned on. Turn it on again: "
                "hf_vbp.merge_tokens(model, r)."
            )
        keys = keys.reshape(*keys.shape[:2], self.heads, -1).float().mean(2)
        sizes = state.sizes
        if sizes is None:
            sizes = torch.ones(hidden.shape[:2], dtype=torch.float32, device=hidden.device)
        with _without_autocast(hidden.device.type):
            position = match_tokens(keys, count, self.leading, state.sizes)
        hidden, state.sizes = average_tokens(hidden, sizes, position, hidden.shape[1] - count)
        state.merged = True
        if self.repeat:
            state.position = position if state.position is None else position.gather(1, state.position)
        return hidden


class _Hook:
    """A hook of :class:`TokenMerging`, which a copy of the model has with its own merging."""

    merges_tokens = True

    def __init__(self, merging: TokenMerging, method: str, index: int = 0) -> None:
        self.merging = merging
        self.method = method
        self.index = index

    def __call__(self, *args: Any) -> Any:
        return getattr(self.merging, self.method)(self.index, *args)


def _without_autocast(device: str) -> Any:
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _sizes_of_mask(mask: torch.Tensor, name: str, images: int) -> torch.Tensor:
    same = mask.dim() == 4 and mask.shape[1] == 1 and name == "attention_mask"
    if same and mask.shape[2] > 1 and not torch.compiler.is_compiling() and not mask.is_meta:
        same = bool((mask == mask[:, :, :1]).all())
    if not same:
        raise ValueError(
            f"The {name} of shape {tuple(mask.shape)} differs between heads or queries, so the tokens cannot be "
            "merged under it. Expected an attention_mask of shape (images, tokens). Turn merging off with "
            "hf_vbp.merge_tokens(model, 0)."
        )
    row = mask[:, 0, 0].float()
    return (row.exp() if mask.is_floating_point() else row).clamp_min(_NO_SIZE).expand(images, -1)


def set_token_merging(model: nn.Module, counts: "tuple[int, ...] | list[int]") -> None:
    """Merge the tokens of a model in every forward pass, in place. Its config is not changed.

    Args:
        model: A model of one of the classes of :data:`USES_ALL_TOKENS`.
        counts: The number of tokens to merge before each block; 0 before the first. At most half of the tokens that
            are not leading are merged.

    Raises:
        ValueError: The tokens of this model cannot be merged, or there are not as many blocks as counts.
    """
    name, tower = type(model).__name__, find_tower(model)
    if name not in USES_ALL_TOKENS or tower is None:
        raise ValueError(f"The tokens of {name} cannot be merged; expected one of {', '.join(USES_ALL_TOKENS)}.")
    if len(counts) != len(tower.blocks) or counts[0] or min(counts) < 0:
        raise ValueError(
            f"Expected the number of tokens to merge before each of {len(tower.blocks)} blocks, 0 before the first, "
            f"got {list(counts)}."
        )
    remove_token_merging(model)
    if any(counts):
        TokenMerging(tower, tuple(counts), USES_ALL_TOKENS[name]).install(tower)


def remove_token_merging(model: nn.Module) -> None:
    """Remove the hooks that merge tokens from a model."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if getattr(hook, "merges_tokens", False)]:
                del hooks[key]
                for kind in ("_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called"):
                    getattr(module, kind).pop(key, None)


def merged_tokens(model: nn.Module) -> "tuple[int, ...]":
    """Return the number of tokens that a model merges before each block; empty where it merges none."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if getattr(hook, "merges_tokens", False):
                return tuple(hook.merging.counts)  # type: ignore[attr-defined]
    return ()


@contextmanager
def without_merging(model: nn.Module) -> "Iterator[None]":
    """Turn merging off inside a ``with`` block. The config keeps its record."""
    counts = merged_tokens(model)
    remove_token_merging(model)
    try:
        yield
    finally:
        if counts:
            set_token_merging(model, counts)


def merge_as_recorded(model: Any) -> None:
    """Merge the tokens of a model that was just built as its config, or that of its tower, records.

    A class whose output needs every token is built without merging: there is a warning, and its config records no
    merging any more.

    Args:
        model: The outermost model.

    Raises:
        ValueError: The record does not fit the model.
    """
    counts = next((record.merged_tokens for _, _, record in recorded_parts(model) if record.merged_tokens), ())
    if counts and type(model).__name__ in USES_ALL_TOKENS:
        try:
            set_token_merging(model, counts)
        except ValueError as error:
            raise ValueError(f"config.vbp['merged_tokens']: {error} config.json was changed: restore it.") from error
    elif counts:
        warnings.warn(
            f"The config records merged tokens, but the output of {type(model).__name__} needs every token, so it is "
            f"loaded without merging. These classes merge tokens: {', '.join(USES_ALL_TOKENS)}.",
            stacklevel=2,
        )
        for module in model.modules():
            for config in config_tree(vars(module)["config"]) if "config" in vars(module) else ():
                record_merged_tokens(config, ())


def record_merged_tokens(config: Any, counts: "tuple[int, ...] | list[int]") -> None:
    """Write the number of merged tokens to the record of a config, in place; without counts, remove it."""
    earlier = vars(config).get("vbp") or {}
    record = {name: value for name, value in earlier.items() if name not in ("version", "merged_tokens")}
    if any(counts):
        config.vbp = {"version": MERGING_VERSION, **record, "merged_tokens": [int(count) for count in counts]}
    elif "merged_tokens" in earlier and "widths" in earlier:
        config.vbp = {"version": RECORD_VERSION, **record}
    elif "merged_tokens" in earlier:
        del config.vbp


_lock = threading.RLock()


class _PermissiveSpec:
    """Replaces the per-layer record of a config while models are built from it.

    transformers >= 5.15 refuses to read ``config.intermediate_size`` where it differs from block to block, by looking
    in ``per_layer_attributes``. Everything else is read from the original; copies and pickles are of the original.
    """

    def __init__(self, original: Any) -> None:
        self.original = original
        self.readers: list[int] = []
        self.per_layer_attributes = set(original.per_layer_attributes) - {"intermediate_size"}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def __copy__(self) -> Any:
        return copy.copy(self.original)

    def __deepcopy__(self, memo: "dict[int, Any]") -> Any:
        return copy.deepcopy(self.original, memo)

    def __reduce__(self) -> "tuple[Any, ...]":
        return copy.copy, (self.original,)


class DenseReads:
    """Lets the constructor of a model read one ``intermediate_size`` from configs that have one per block.

    transformers >= 5.15 refuses such a read, because the value differs from block to block. The constructors of the
    library read it nevertheless; the MLPs are resized right after. Several threads may build models from one config:
    it refuses the read again once the last :class:`DenseReads` of it is released, by :meth:`release`, the end of a
    ``with`` block, or the deletion of the object. Saving the config in between writes the same as before and after.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._specs: list[tuple[Any, Any]] = []
        with _lock:
            for one in config_tree(config):
                spec = vars(one).get("_heterogeneity_spec")
                # Another copy of this file, imported from a checkpoint, may have replaced the record already.
                if getattr(spec, "per_layer_attributes", None) and not hasattr(spec, "readers"):
                    spec = vars(one)["_heterogeneity_spec"] = _PermissiveSpec(spec)
                if hasattr(spec, "readers"):
                    self._specs.append((one, spec))
                    spec.readers.append(id(self))

    def release(self) -> None:
        """Make the configs refuse the read again, if no other constructor needs it."""
        with _lock:
            specs, self._specs = self._specs, []
            for config, spec in specs:
                spec.readers.remove(id(self))
                if not spec.readers and vars(config).get("_heterogeneity_spec") is spec:
                    vars(config)["_heterogeneity_spec"] = spec.original

    def __enter__(self) -> "DenseReads":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def check_loaded(model: nn.Module, info: "dict[str, Any]") -> None:
    """Refuse a model in which MLPs of a recorded width did not get their weights from the checkpoint.

    Args:
        model: A model that was just loaded; it may hold a pruned model as a part.
        info: The loading information that ``from_pretrained(..., output_loading_info=True)`` returned.

    Raises:
        ValueError: Weights of an MLP were missing or had another shape than the config records.
    """
    mismatched = {entry[0]: tuple(entry[1]) for entry in info.get("mismatched_keys", ())}
    missing = set(info.get("missing_keys", ()))
    for part, module, record in pruned_parts(model):
        prefix = f"{part}." if part else ""
        for index, mlp in enumerate(find_mlps(module, record)):
            for key in mlp_keys(mlp):
                key = prefix + key
                if key in mismatched or key in missing:
                    found = f"have the shape {mismatched[key]}" if key in mismatched else "are missing"
                    raise ValueError(
                        f"config.vbp records {mlp.width} neurons for MLP {index}, but its weights "
                        f"({key}) in the checkpoint {found}. config.json and the weights do not belong together: "
                        "restore the files as they were saved."
                    )


def mlp_keys(mlp: MLP) -> "list[str]":
    """Return the names of the tensors of an MLP in the state dict of its model."""
    pairs = zip(mlp.names, mlp.modules)  # noqa: B905 - one name per module
    return [f"{name}.{tensor}" for name, (module, _) in pairs for tensor, _ in _tensors(module)]


def auto_map(config: Any) -> "dict[str, str]":
    """Return the ``auto_map`` that lets transformers load a pruned model from this file, by every auto class.

    Args:
        config: The config of the model; ``architectures`` names the class, where a family has several.
    """
    entries = {}
    for auto_class, mapping in auto_classes().items():
        names = mapping.get(config.model_type, ())
        names = (names,) if isinstance(names, str) else tuple(name for name in names if name)
        chosen = [name for name in (config.architectures or ()) if name in names] or names
        if chosen:
            entries[auto_class] = f"modeling_hf_vbp.{chosen[0]}"
    return entries


def auto_classes() -> "dict[str, Any]":
    """Return the auto classes of transformers with their tables of model type to class name."""
    from transformers.models.auto import modeling_auto

    found = {}
    for name in sorted(vars(modeling_auto)):
        mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
        if name.startswith("Auto") and mapping is not None:
            found[name] = mapping._model_mapping
    return found


class _PrunedMixin:
    """Builds the native model, sets the widths of its MLPs to those of the config, and merges tokens as recorded."""

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        with DenseReads(config):
            super().__init__(config, *inputs, **kwargs)  # type: ignore[call-arg]

    def post_init(self) -> None:
        """Resize before the weights are initialised and the properties of the model are gathered."""
        model: Any = self
        for _, part, record in pruned_parts(model):
            if not resize(part, record):
                raise ValueError(
                    f"config.vbp has widths for {len(record.widths)} MLPs, but {type(part).__name__} has "
                    f"{len(find_mlps(part, record))}. config.json was changed after saving: restore it."
                )
        merge_as_recorded(model)
        super().post_init()  # type: ignore[misc]

    def _adjust_tied_keys_with_tied_pointers(self, *args: Any) -> None:
        # Some versions of transformers 5 treat empty tensors, as an MLP of width 0 has, as tied to missing ones.
        model: Any = self
        if 0 not in (recorded_widths(model.config) or ()):
            super()._adjust_tied_keys_with_tied_pointers(*args)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, and refuse a model whose MLPs would be random."""
        wanted = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        check_loaded(model, info)
        return (model, info) if wanted else model


_CLASSES: "dict[str, Any]" = {}


def __getattr__(name: str) -> Any:
    """Derive the class ``name`` from the class of the same name in transformers."""
    if name.startswith("_"):
        raise AttributeError(name)
    if name not in _CLASSES:
        import transformers

        native = getattr(transformers, name, None)
        if not (isinstance(native, type) and issubclass(native, transformers.PreTrainedModel)):
            raise AttributeError(f"{name} is not a model of transformers {transformers.__version__}")
        _CLASSES[name] = _make_class(name, native)
    return _CLASSES[name]


def _make_class(name: str, native: Any) -> Any:
    # The same name, because save_pretrained writes it to `architectures`, by which native loading finds the class.
    made: Any = type(name, (_PrunedMixin, native), {"__module__": __name__, "__doc__": native.__doc__})
    names = {auto: mapping.values() for auto, mapping in auto_classes().items()}
    fitting = [auto for auto, values in names.items() if any(name in (value, *_listed(value)) for value in values)]
    # transformers 4.57 registers only unknown model types by itself, and would save an auto_map without this file.
    made.register_for_auto_class(fitting[-1] if fitting else "AutoModel")
    _keep_key_conversions(name, getattr(native.config_class, "model_type", None))
    return made


def _listed(value: Any) -> "tuple[str, ...]":
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _keep_key_conversions(*keys: "str | None") -> None:
    # transformers 5 renames the keys of a checkpoint by class name and model type, but for classes of other modules
    # only where the renaming was registered explicitly; without it the weights of a bare backbone would be random.
    try:
        from transformers.conversion_mapping import (
            get_checkpoint_conversion_mapping,
            register_checkpoint_conversion_mapping,
        )
    except ImportError:  # in transformers 4 the modules have the names of the checkpoint
        return
    for key in keys:
        mapping = get_checkpoint_conversion_mapping(key) if key else None
        if mapping is not None:
            register_checkpoint_conversion_mapping(key, mapping, overwrite=True)
