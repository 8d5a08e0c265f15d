"""The modeling file of a pruned checkpoint: MLPs whose width differs from block to block.

A model pruned with hf_vbp is an ordinary transformers model whose MLPs differ in width. Its ``config.json`` records
the widths in block order, with the names of the two linears of each MLP::

    {"vbp": {"version": 2, "widths": [411, 803, ...], "modules": [["fc1", "fc2"]], ...}}

This file builds the model that fits the record. It needs torch and transformers (4.57 or newer) and nothing else,
and is part of the checkpoint, so that ``trust_remote_code=True`` loads it where hf_vbp is not installed::

    from transformers import AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)

The classes are derived on demand from those of transformers, have the same names, and change only the widths.
"""

import copy
import threading
from typing import Any, NamedTuple

import torch
from torch import nn

RECORD_VERSION = 2
_READABLE_VERSIONS = (1, 2)

# The local names of the two linears of an MLP under a parent module, over all families and versions of transformers.
_PAIRS = (
    ("fc1", "fc2"),
    ("pwconv1", "pwconv2"),
    ("dense1", "dense2"),
    ("up_proj", "down_proj"),
    ("pointwise_conv1", "pointwise_conv2"),
    ("intermediate.dense", "output.dense"),
)
# In ConvNeXt the depthwise convolution comes before the pair; elsewhere it is between the two linears.
_BLOCK_LEVEL_PAIRS = ("pwconv1", "pointwise_conv1")
_AUTO_CLASSES = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForMaskedImageModeling": "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
}


class MLPPair(NamedTuple):
    """The two linears of one MLP.

    Attributes:
        parent: Qualified name of the nearest module that holds both.
        names: The local names of the two linears, relative to the parent.
        fc1: The expanding linear.
        fc2: The contracting linear.
    """

    parent: str
    names: "tuple[str, str]"
    fc1: nn.Linear
    fc2: nn.Linear

    @property
    def fc1_name(self) -> str:
        """Qualified name of ``fc1``."""
        return f"{self.parent}.{self.names[0]}" if self.parent else self.names[0]

    @property
    def fc2_name(self) -> str:
        """Qualified name of ``fc2``."""
        return f"{self.parent}.{self.names[1]}" if self.parent else self.names[1]


class Record(NamedTuple):
    """What ``config.vbp`` records.

    Attributes:
        widths: One width per MLP, in block order.
        modules: The local names of the two linears of each MLP, in block order; empty in records that hold no names
            (version 1).
    """

    widths: "tuple[int, ...]"
    modules: "tuple[tuple[str, str], ...]" = ()


def find_pairs(model: nn.Module, record: "Record | None" = None) -> "list[MLPPair]":
    """List the MLPs of a model by the names of their linears, in block order.

    No forward pass is made, so this works on the meta device too.

    With a record, the MLPs that it describes: those with the recorded names. Where the model has no such MLPs,
    because its modules have other names in this version of transformers, and without a record, the MLPs whose names
    are in the table. The table leaves out gated MLPs, MLPs with a layer between the two linears that mixes neurons,
    and poolers (below a ``head``).
    """
    if record is not None and record.modules:
        names = tuple(dict.fromkeys(record.modules))
        for include_all in (False, True):
            pairs = search(model, names, include_all)
            if tuple(pair.names for pair in pairs) == record.modules:
                return pairs
    return search(model, _PAIRS, include_all=False)


def search(model: nn.Module, names: "tuple[tuple[str, str], ...]", include_all: bool) -> "list[MLPPair]":
    """List the MLPs of a model whose linears have one of the given pairs of local names, in block order.

    Args:
        model: The model.
        names: Pairs of local names.
        include_all: Whether to include what the table leaves out.
    """
    pairs = []
    for parent_name, parent in model.named_modules():
        if include_all or "head" not in parent_name.split("."):
            for pair in names:
                fc1, fc2 = (_child(parent, path) for path in pair)
                if _is_mlp(fc1, fc2) and (include_all or _is_plain(parent, pair, fc1, fc2)):
                    pairs.append(MLPPair(parent_name, pair, fc1, fc2))
    return pairs


def _child(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


def _is_mlp(fc1: Any, fc2: Any) -> bool:
    return isinstance(fc1, nn.Linear) and isinstance(fc2, nn.Linear) and fc1.out_features == fc2.in_features


def _is_plain(parent: nn.Module, names: "tuple[str, str]", fc1: Any, fc2: Any) -> bool:
    children = parent._modules
    mixed = "gate_proj" in children or "grn" in children
    mixed = mixed or ("dwconv" in children and names[0] not in _BLOCK_LEVEL_PAIRS)
    return not mixed and fc2.out_features == fc1.in_features


def read_record(config: Any) -> "Record | None":
    """Return what a config records about the MLPs, or None where it holds no record of hf_vbp.

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
    if not _are_names(modules) or len(modules) not in (0, 1, len(widths)):
        raise ValueError(
            f"config.vbp['modules'] is {modules!r}, expected the names of two linears for each of {len(widths)} MLPs, "
            "or once for all. config.json was changed after saving: restore it."
        )
    pairs = tuple((up, down) for up, down in modules)
    return Record(tuple(widths), pairs * len(widths) if len(pairs) == 1 else pairs)


def _are_names(modules: Any) -> bool:
    return isinstance(modules, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(name, str) and name for name in pair)
        for pair in modules
    )


def recorded_widths(config: Any) -> "list[int] | None":
    """Return the widths that a config records, in block order, or None where it records none.

    Raises:
        ValueError: The record is malformed, or was written by a newer version.
    """
    record = read_record(config)
    return None if record is None else list(record.widths)


def pruned_parts(model: nn.Module) -> "list[tuple[str, Any, Record]]":
    """List the parts of a model whose config records widths, as (qualified name, module, record).

    A pruned model is itself the one part, with the name ``""``; a composite model (text and image) can hold several.

    Raises:
        ValueError: A record is malformed, or was written by a newer version.
    """
    parts, seen = [], set()
    for name, module in model.named_modules():
        config = vars(module).get("config")
        # Inner modules share the config of the part that they belong to.
        if config is not None and id(config) not in seen:
            seen.add(id(config))
            record = read_record(config)
            if record is not None:
                parts.append((name, module, record))
    return parts


def resize(model: nn.Module, widths: "list[int] | tuple[int, ...] | Record") -> bool:
    """Set the widths of the MLPs of a model, in place and in block order.

    Linears keep their device and dtype (meta remains meta). The first neurons keep their weights, new neurons are
    zero. A linear that has its width already is not changed.

    Args:
        model: Any model that holds the MLPs.
        widths: One width per MLP, or a record.

    Returns:
        Whether the model has as many MLPs as there are widths; if not, nothing was changed.
    """
    record = widths if isinstance(widths, Record) else Record(tuple(widths))
    pairs = find_pairs(model, record)
    if len(pairs) != len(record.widths):
        return False
    for pair, width in zip(pairs, record.widths):  # noqa: B905 - lengths are equal, checked above
        if pair.fc1.out_features != width:
            _reshape(pair.fc1, width, pair.fc1.in_features)
            _reshape(pair.fc2, pair.fc2.out_features, width)
    return True


def _reshape(linear: nn.Linear, out_features: int, in_features: int) -> None:
    shapes = {"weight": (out_features, in_features), "bias": (out_features,)}
    for name, parameter in list(linear.named_parameters(recurse=False)):
        shape = shapes[name]
        # The parameters are replaced one by one, because nn.Linear(0, n) warns about its own initialization.
        value = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        common = tuple(slice(min(old, new)) for old, new in zip(parameter.shape, shape))  # noqa: B905
        value[common] = parameter.detach()[common]
        setattr(linear, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
    linear.out_features, linear.in_features = out_features, in_features
    # Otherwise transformers would not initialize the new parameters.
    vars(linear).pop("_is_hf_initialized", None)


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
    """Lets the constructor of a model read one ``intermediate_size`` from a config that has one per block.

    transformers >= 5.15 refuses such a read, because the value differs from block to block. The constructors of the
    library read it nevertheless; the MLPs are resized right after. Several threads may build models from one config:
    it refuses the read again once the last :class:`DenseReads` of it is released, by :meth:`release`, the end of a
    ``with`` block, or the deletion of the object. Saving the config in between writes the same as before and after.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self._spec: Any = None
        with _lock:
            spec = vars(config).get("_heterogeneity_spec")
            # Another copy of this file, imported from a checkpoint, may have replaced the record already.
            if getattr(spec, "per_layer_attributes", None) and not hasattr(spec, "readers"):
                spec = vars(config)["_heterogeneity_spec"] = _PermissiveSpec(spec)
            if hasattr(spec, "readers"):
                self._spec = spec
                spec.readers.append(id(self))

    def release(self) -> None:
        """Make the config refuse the read again, if no other constructor needs it."""
        with _lock:
            spec, self._spec = self._spec, None
            if spec is not None:
                spec.readers.remove(id(self))
                if not spec.readers and vars(self.config).get("_heterogeneity_spec") is spec:
                    vars(self.config)["_heterogeneity_spec"] = spec.original

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
        for index, pair in enumerate(find_pairs(module, record)):
            for name in (pair.fc1_name, pair.fc2_name):
                for key in (f"{prefix}{name}.weight", f"{prefix}{name}.bias"):
                    if key in mismatched or key in missing:
                        found = f"have the shape {mismatched[key]}" if key in mismatched else "are missing"
                        raise ValueError(
                            f"config.vbp records {pair.fc1.out_features} neurons for MLP {index}, but its weights "
                            f"({key}) in the checkpoint {found}. config.json and the weights do not belong together: "
                            "restore the files as they were saved."
                        )


def auto_map(config: Any) -> "dict[str, str]":
    """Return the ``auto_map`` that lets transformers load a pruned model from this file.

    Args:
        config: The config of the model; ``architectures`` names the class, where a family has several.
    """
    from transformers.models.auto import modeling_auto

    entries = {}
    for auto_class, mapping in _AUTO_CLASSES.items():
        names = getattr(modeling_auto, mapping).get(config.model_type, ())
        names = (names,) if isinstance(names, str) else tuple(names)
        chosen = [name for name in (config.architectures or ()) if name in names] or names
        if chosen:
            entries[auto_class] = f"modeling_hf_vbp.{chosen[0]}"
    return entries


class _PrunedMixin:
    """Builds the native model and sets the widths of its MLPs to those of the config."""

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        with DenseReads(config):
            super().__init__(config, *inputs, **kwargs)  # type: ignore[call-arg]

    def post_init(self) -> None:
        """Resize before the weights are initialised and the properties of the model are gathered."""
        model: Any = self
        record = read_record(model.config)
        if record is not None and not resize(model, record):
            raise ValueError(
                f"config.vbp has widths for {len(record.widths)} MLPs, but {type(self).__name__} has "
                f"{len(find_pairs(model, record))}. config.json was changed after saving: restore it."
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
    auto_class = "AutoModelForImageClassification" if "ImageClassification" in name else "AutoModel"
    # transformers 4.57 registers only unknown model types by itself, and would save an auto_map without this file.
    made.register_for_auto_class("AutoModelForMaskedImageModeling" if "MaskedImage" in name else auto_class)
    _keep_key_conversions(name, getattr(native.config_class, "model_type", None))
    return made


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
