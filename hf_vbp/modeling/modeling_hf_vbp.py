"""The modeling file of a pruned checkpoint: MLPs whose width differs from block to block.

A model pruned with hf_vbp is an ordinary transformers model whose MLPs differ in width. The config that builds the
MLPs (the root of ``config.json``, or its ``vision_config``, ``backbone_config``, ...) records the widths in block
order, with the names of the modules of each MLP::

    {"vbp": {"version": 2, "widths": [411, 803, ...], "modules": [["fc1", "fc2"]], ...}}

This file builds the model that fits the record. It needs torch and transformers (4.57 or newer) and nothing else,
and is part of the checkpoint, so that ``trust_remote_code=True`` loads it where hf_vbp is not installed::

    from transformers import AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)

The classes are derived on demand from those of transformers, have the same names, and change only the widths.
"""

import copy
import re
import threading
from typing import Any, NamedTuple

import torch
from torch import nn

RECORD_VERSION = 2
_READABLE_VERSIONS = (1, 2)


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
        modules: The layout of each MLP, in block order; empty in records that hold no names (version 1).
    """

    widths: "tuple[int, ...]"
    modules: "tuple[Layout, ...]" = ()


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
    """Return what a config records about the MLPs, or None where it holds no record of hf_vbp itself.

    Raises:
        ValueError: The record is malformed, or was written by a newer version.
    """
    record = getattr(config, "__dict__", {}).get("vbp")
    if not isinstance(record, dict) or not ({"version", "widths"} & record.keys()):
        return None
    version, widths, modules = record.get("version"), record.get("widths"), record.get("modules", [])
    if type(version) is not int or version not in _READABLE_VERSIONS:
        raise ValueError(
            f"config.vbp has version {version!r}, expected at most {RECORD_VERSION}. If it was written by a newer "
            "hf_vbp, upgrade hf_vbp; otherwise config.json was changed after saving: restore it."
        )
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
    return Record(tuple(widths), layouts * len(widths) if len(layouts) == 1 else layouts)


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
    records = read_records(config)
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
    parts: list[tuple[str, Any, Record]] = []
    seen = set()
    for name, module in model.named_modules():
        config = vars(module).get("config")
        # Inner modules share the config of the part that they belong to, or have a copy of it.
        if config is not None and id(config) not in seen:
            seen.add(id(config))
            record = read_record(config)
            inside = any(not part or f"{name}.".startswith(f"{part}.") for part, _, other in parts if other == record)
            if record is not None and not inside:
                parts.append((name, module, record))
    return parts


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
    """Builds the native model and sets the widths of its MLPs to those of the config."""

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
