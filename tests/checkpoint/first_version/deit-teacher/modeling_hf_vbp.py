"""The modelling half of a pruned checkpoint: MLPs of a width of their own in each block.

A model pruned with hf_vbp is an ordinary transformers model whose MLPs differ in width. Its ``config.json``
says the widths in the order of the blocks, ``{"vbp": {"version": 1, "widths": [...]}}``, and this file makes
the model that fits them. It needs torch and transformers (4.57 or newer) and nothing else, and travels with
the checkpoint, so that ``trust_remote_code=True`` loads it where hf_vbp is not installed::

    from transformers import AutoModelForImageClassification
    model = AutoModelForImageClassification.from_pretrained(path, trust_remote_code=True)

The classes are made on demand from transformers' own, under the same names, and change nothing but the widths.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

RECORD_VERSION = 1

# Where a parent module keeps the two linears of an MLP, over all families and versions of transformers.
_PAIRS = (
    ("fc1", "fc2"),
    ("pwconv1", "pwconv2"),
    ("dense1", "dense2"),
    ("up_proj", "down_proj"),
    ("pointwise_conv1", "pointwise_conv2"),
    ("intermediate.dense", "output.dense"),
)
# ConvNeXt keeps the depthwise convolution of the block beside the pair; elsewhere it lies between the two linears.
_BLOCK_LEVEL_PAIRS = ("pwconv1", "pointwise_conv1")
_AUTO_CLASSES = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForMaskedImageModeling": "MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES",
}


class MLPPair(NamedTuple):
    """The two linears of one MLP: qualified names of their parent and of themselves, and the modules."""

    parent: str
    fc1_name: str
    fc2_name: str
    fc1: nn.Linear
    fc2: nn.Linear


def find_pairs(model: nn.Module) -> list[MLPPair]:
    """List the MLPs of a model by the names of their linears, in the order of the blocks.

    No forward pass is made, so this works on the meta device too. Gated MLPs, MLPs with a layer between the two
    linears that mixes neurons, and poolers (below a ``head``) are not listed.
    """
    pairs = []
    for name, parent in model.named_modules():
        if "head" not in name.split("."):
            for fc1_path, fc2_path in _PAIRS:
                fc1, fc2 = _child(parent, fc1_path), _child(parent, fc2_path)
                if _is_mlp(parent, fc1_path, fc1, fc2):
                    prefix = f"{name}." if name else ""
                    pairs.append(MLPPair(name, prefix + fc1_path, prefix + fc2_path, fc1, fc2))
    return pairs


def _child(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, "_modules", {}).get(name)
    return module


def _is_mlp(parent: nn.Module, fc1_path: str, fc1: Any, fc2: Any) -> bool:
    if not (isinstance(fc1, nn.Linear) and isinstance(fc2, nn.Linear)):
        return False
    children = parent._modules
    mixed = "gate_proj" in children or "grn" in children
    mixed = mixed or ("dwconv" in children and fc1_path not in _BLOCK_LEVEL_PAIRS)
    return not mixed and fc1.out_features == fc2.in_features and fc2.out_features == fc1.in_features


def recorded_widths(config: Any) -> "list[int] | None":
    """Return the widths that a config records, in the order of the blocks, or None where it records none.

    Raises:
        ValueError: The record is malformed, or was written by a newer version.
    """
    record = vars(config).get("vbp")
    if not isinstance(record, dict) or not ({"version", "widths"} & record.keys()):
        return None
    version, widths = record.get("version"), record.get("widths")
    if version != RECORD_VERSION:
        raise ValueError(
            f"config.vbp has version {version!r}, expected {RECORD_VERSION}. If it was written by a newer hf_vbp, "
            "upgrade hf_vbp; otherwise config.json was changed after saving and must be restored."
        )
    if not isinstance(widths, list) or not widths or not all(type(width) is int and width >= 0 for width in widths):
        raise ValueError(
            f"config.vbp['widths'] is {widths!r}, expected a list with a whole number for each MLP. "
            "config.json was changed after saving; restore it."
        )
    return widths


def resize(model: nn.Module, widths: "list[int] | tuple[int, ...]") -> bool:
    """Give the MLPs of a model their widths, in place and in the order of the blocks.

    Linears keep their device and dtype (meta stays meta). The first neurons keep their weights, new neurons are
    zero. A linear that fits already is not touched.

    Args:
        model: Any model that holds the MLPs.
        widths: One width per MLP.

    Returns:
        Whether the model has as many MLPs as there are widths; if not, nothing was changed.
    """
    pairs = find_pairs(model)
    if len(pairs) != len(widths):
        return False
    for pair, width in zip(pairs, widths):  # noqa: B905 - lengths are equal, checked above
        if pair.fc1.out_features != width:
            _reshape(pair.fc1, width, pair.fc1.in_features)
            _reshape(pair.fc2, pair.fc2.out_features, width)
    return True


def _reshape(linear: nn.Linear, out_features: int, in_features: int) -> None:
    shapes = {"weight": (out_features, in_features), "bias": (out_features,)}
    for name, parameter in list(linear.named_parameters(recurse=False)):
        shape = shapes[name]
        # Parameter by parameter: nn.Linear(0, n) warns about its own initialisation.
        value = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        common = tuple(slice(min(old, new)) for old, new in zip(parameter.shape, shape))  # noqa: B905
        value[common] = parameter.detach()[common]
        setattr(linear, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
    linear.out_features, linear.in_features = out_features, in_features
    # Otherwise transformers would take the new parameters for initialised ones.
    vars(linear).pop("_is_hf_initialized", None)


class DenseReads:
    """Lets the constructor of a model read one ``intermediate_size`` from a config that has one per block.

    transformers >= 5.15 refuses such a read, because the value differs from block to block. The constructors
    of the library make it nevertheless; the MLPs are resized right after. The config is as it was after
    :meth:`release`, which the end of a ``with`` block and the end of this object's life call as well. Saving the
    config in between writes what it would write otherwise.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.spec = vars(config).get("_heterogeneity_spec")
        guarded = getattr(self.spec, "per_layer_attributes", None)
        if guarded:
            quiet = copy.copy(self.spec)
            quiet.per_layer_attributes = set(guarded) - {"intermediate_size"}
            vars(config)["_heterogeneity_spec"] = quiet

    def release(self) -> None:
        """Make the config refuse ambiguous reads again, where it did before."""
        if self.spec is not None:
            vars(self.config)["_heterogeneity_spec"] = self.spec
            self.spec = None

    def __enter__(self) -> "DenseReads":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def check_loaded(model: nn.Module, info: "dict[str, Any]") -> None:
    """Refuse a model whose MLPs did not get their weights from the checkpoint.

    Args:
        model: A model that was just loaded.
        info: What ``from_pretrained(..., output_loading_info=True)`` returned beside it.

    Raises:
        ValueError: Weights of an MLP were missing or had another shape than the config says.
    """
    mismatched = {entry[0]: tuple(entry[1]) for entry in info.get("mismatched_keys", ())}
    missing = set(info.get("missing_keys", ()))
    for index, pair in enumerate(find_pairs(model)):
        for name in (pair.fc1_name, pair.fc2_name):
            for key in (f"{name}.weight", f"{name}.bias"):
                if key in mismatched or key in missing:
                    found = f"have the shape {mismatched[key]}" if key in mismatched else "are missing"
                    raise ValueError(
                        f"config.vbp says that MLP {index} has {pair.fc1.out_features} neurons, but its weights "
                        f"({key}) in the checkpoint {found}. config.json and the weights do not belong together: "
                        "restore the files as they were saved."
                    )


def auto_map(config: Any) -> "dict[str, str]":
    """Return the ``auto_map`` that lets transformers load a pruned model from this file.

    Args:
        config: The config of the model; ``architectures`` tells which of several classes of a family it is.
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
    """Builds the native model and gives its MLPs the widths of the config."""

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        with DenseReads(config):
            super().__init__(config, *inputs, **kwargs)  # type: ignore[call-arg]

    def post_init(self) -> None:
        """Resize before the weights are initialised and the properties of the model are gathered."""
        model: Any = self
        widths = recorded_widths(model.config)
        if widths is not None and not resize(model, widths):
            raise ValueError(
                f"config.vbp has widths for {len(widths)} MLPs, but {type(self).__name__} has "
                f"{len(find_pairs(model))}. config.json was changed after saving; restore it."
            )
        super().post_init()  # type: ignore[misc]

    def _adjust_tied_keys_with_tied_pointers(self, *args: Any) -> None:
        # Some transformers 5 take tensors without elements, as an MLP of width 0 has, for tied to missing ones.
        model: Any = self
        if 0 not in (recorded_widths(model.config) or ()):
            super()._adjust_tied_keys_with_tied_pointers(*args)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, and refuse a model whose MLPs were left random."""
        wanted = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        check_loaded(model, info)
        return (model, info) if wanted else model


_CLASSES: "dict[str, Any]" = {}


def __getattr__(name: str) -> Any:
    """Make the class ``name`` from the class of the same name in transformers."""
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
    # The same name, because save_pretrained writes it to `architectures`, where native loading looks it up.
    made: Any = type(name, (_PrunedMixin, native), {"__module__": __name__, "__doc__": native.__doc__})
    auto_class = "AutoModelForImageClassification" if "ImageClassification" in name else "AutoModel"
    # transformers 4.57 does this only for unknown model types, and would save an auto_map without this file.
    made.register_for_auto_class("AutoModelForMaskedImageModeling" if "MaskedImage" in name else auto_class)
    _keep_key_conversions(name, getattr(native.config_class, "model_type", None))
    return made


def _keep_key_conversions(*keys: "str | None") -> None:
    # transformers 5 renames the keys of a checkpoint by class name and model type, but for classes of other
    # modules only where the renaming was registered by hand; without it a bare backbone would stay random.
    try:
        from transformers.conversion_mapping import (
            get_checkpoint_conversion_mapping,
            register_checkpoint_conversion_mapping,
        )
    except ImportError:  # transformers 4 keeps the names of the checkpoints in memory
        return
    for key in keys:
        mapping = get_checkpoint_conversion_mapping(key) if key else None
        if mapping is not None:
            register_checkpoint_conversion_mapping(key, mapping, overwrite=True)
