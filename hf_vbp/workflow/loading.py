"""Load a model and its image processor by name: a Hub id, a folder or ``sample``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp._packages import missing_package
from hf_vbp._progress import one_line, shown
from hf_vbp.adapters.modalities import check_takes_images
from hf_vbp.checkpoint.model_classes import find_model_class
from hf_vbp.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    MissingPackageError,
    UnsupportedModelError,
)
from hf_vbp.files.layout import CONFIG

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its processor and its name.

    Attributes:
        source: The name that the user gave: a Hub id, a folder, or ``sample``.
        model: The model, in eval mode.
        processor: Its image processor with the Pillow backend, or ``None`` if the checkpoint has none.
        hub: ``token`` and ``cache_dir`` that it was loaded with.
    """

    source: str
    model: Any
    processor: Any
    hub: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; the fields have the meaning that they have in transformers.

    Attributes:
        revision: Branch, tag or commit on the Hub.
        dtype: ``"auto"`` (that of the checkpoint), the name of a torch dtype, or a torch dtype.
        device: Device of the model; by default the device that Accelerate gives this process.
        cache_dir: Cache of the files from the Hub.
        token: Access token for the Hub; by default the one that huggingface_hub finds.
        interpolate_pos_encoding: Whether to adapt the position embeddings to the size of the image processor, see
            :func:`hf_vbp.interpolate_position_embeddings`.
    """

    revision: str | None = None
    dtype: "str | torch.dtype" = "auto"
    device: "str | torch.device | None" = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    interpolate_pos_encoding: bool = False

    def load(self, source: str) -> LoadedModel:
        """Load a model; see :func:`load_model`."""
        return load_model(source, **vars(self))

    def structure(self, source: str) -> Any:
        """Return a model without weights; see :func:`load_structure`."""
        hub: dict[str, Any] = {"revision": self.revision, "cache_dir": self.cache_dir, "token": self.token}
        model = load_structure(source, **hub)
        if self.interpolate_pos_encoding:
            model = _of_processor_size(source, model, _load_processor(path_of(source), hub))
        return model


def load_model(
    source: str,
    *,
    revision: str | None = None,
    dtype: "str | torch.dtype" = "auto",
    device: "str | torch.device | None" = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    interpolate_pos_encoding: bool = False,
) -> LoadedModel:
    """Load a dense or pruned vision transformer as the class that it was saved from.

    Args:
        source: A Hub id, a folder, or ``sample`` for the model that ships with the package.
        revision: As in :class:`Loading`.
        dtype: As in :class:`Loading`.
        device: As in :class:`Loading`.
        cache_dir: As in :class:`Loading`.
        token: As in :class:`Loading`.
        interpolate_pos_encoding: As in :class:`Loading`.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged, or its config and weights disagree.
        UnsupportedModelError: No adapter supports its family, its class is not one of transformers, or it needs code
            that comes with the checkpoint, or it cannot interpolate its position embeddings.
        ConfigurationError: The dtype or the device is unknown, or the size of the processor is not.
        MissingPackageError: It needs a package that is not installed.
    """
    checked_dtype = _check_dtype(dtype)
    path = path_of(source)
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    config = _supported_config(source, path, hub)
    if checked_dtype == "auto":
        _dtype_of(source, config)
    try:
        model = _load_weights(path, hub, _model_class(source, config), checked_dtype)
    except MissingPackageError as error:
        if getattr(config, "quantization_config", None) is None:
            raise
        raise MissingPackageError(
            f"{error} The model is quantized, so it cannot be pruned: name the checkpoint that was quantized."
        ) from error
    processor = _load_processor(path, hub)
    if interpolate_pos_encoding:
        model = _of_processor_size(source, model, processor)
    return LoadedModel(source, _to_device(model, device), processor, {"token": token, "cache_dir": cache_dir})


def load_structure(
    source: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> Any:
    """Build a model on the meta device from its config; weights are neither needed nor read.

    Args:
        source: As in :func:`load_model`; a folder needs only its ``config.json``.
        revision: As in :class:`Loading`.
        cache_dir: As in :class:`Loading`.
        token: As in :class:`Loading`.

    Raises:
        CheckpointError: There is no such checkpoint, or its config describes no model.
        UnsupportedModelError: As in :func:`load_model`.
    """
    path = path_of(source)
    config = _supported_config(source, path, {"revision": revision, "cache_dir": cache_dir, "token": token})
    return _without_weights(source, config)


def _without_weights(source: str, config: Any) -> Any:
    """Return the model of a config on the meta device."""
    import torch

    from hf_vbp.checkpoint.config_limits import bounded_model
    from hf_vbp.checkpoint.load_errors import load_errors
    from hf_vbp.checkpoint.transformers_patch import patched

    dtype = _dtype_of(source, config)
    model_class = _model_class(source, config)
    try:
        with patched(), torch.device("meta"), bounded_model(source):
            if hasattr(model_class, "from_config"):
                model = model_class.from_config(config, trust_remote_code=False)
            else:
                model = model_class(config)
    except CheckpointError:
        raise
    except ImportError as error:
        raise missing_package(error, source) from error
    except load_errors() as error:
        raise CheckpointError(
            f"The config of {source} describes no {model_class.__name__} that can be built: {one_line(error)}"
        ) from error
    # Some classes make parameters on the CPU whatever the default device is.
    return model.to("meta", dtype).eval()


def _supported_config(source: str, path: str, hub: dict[str, Any]) -> Any:
    """Return the config of a checkpoint of a model that takes images."""
    config = _load_config(path, hub)
    check_takes_images(config, source, lambda: _without_weights(source, config))
    return config


def _of_processor_size(source: str, model: Any, processor: Any) -> Any:
    from hf_vbp.inputs.position_embeddings import interpolate_position_embeddings, size_of_processor

    size = size_of_processor(processor)
    if size is None:
        raise ConfigurationError(
            f"--interpolate-pos-encoding adapts a model to the size of its image processor, and {source} has none "
            'with a height and a width. Save one with it, with size={"height": ..., "width": ...}.'
        )
    return interpolate_position_embeddings(model, size)


def _dtype_of(source: str, config: Any) -> "torch.dtype":
    """Return the dtype of a checkpoint; refuse one in which no model computes, such as those of 8 bits."""
    import torch

    dtype = config.dtype or torch.float32
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise CheckpointError(
            f"The config of {source} has the dtype {shown(dtype)}; expected a floating one of 16 bits or more, such "
            "as 'float32'. Restore the original config.json, or choose one (--dtype float32)."
        )
    return dtype


def _check_dtype(dtype: "str | torch.dtype") -> "str | torch.dtype":
    import torch

    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigurationError(f"Unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}.")
    found: str | torch.dtype = dtype if dtype == "auto" else getattr(torch, dtype)
    return found


def path_of(source: str) -> str:
    """Return the folder of a model, or its Hub id.

    Args:
        source: As in :func:`load_model`.

    Raises:
        CheckpointError: It looks like a folder, and is none with a checkpoint.
    """
    if source == "sample":
        from hf_vbp.sample import sample_model_path

        return str(sample_model_path())
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"{source} has no {CONFIG}. Expected the folder of a checkpoint.")
        return str(path)
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise CheckpointError(
            f"{source} is not a folder with a checkpoint. Expected one, or a Hub id such as "
            "facebook/deit-tiny-patch16-224."
        )
    return source


def _load_config(path: str, hub: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    from hf_vbp.checkpoint.config_limits import check_config_size
    from hf_vbp.checkpoint.load_errors import load_errors

    try:
        check_config_size(path, **hub)
        return AutoConfig.from_pretrained(path, trust_remote_code=False, **hub)
    except CheckpointError:
        raise
    except load_errors() as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{path} loads only with code that comes with it, which hf_vbp does not run. Expected a checkpoint of "
                "a model type that transformers itself has."
            ) from error
        place = "" if Path(path).is_dir() else " from the Hub, and there is no folder of that name here"
        raise CheckpointError(f"The config of {path} cannot be loaded{place}: {one_line(error)}") from error


def _model_class(source: str, config: Any) -> Any:
    """Return the class that the checkpoint was saved from, so that no head is lost."""
    import transformers

    if not config.architectures:
        return transformers.AutoModelForImageClassification
    name = config.architectures[0] if isinstance(config.architectures, list) else config.architectures
    found = find_model_class(name, config.model_type)
    if found is None:
        raise UnsupportedModelError(
            f"{source} was saved from the class {shown(name)} (architectures in config.json), which transformers "
            f"{transformers.__version__} does not have. Expected a class of transformers, or one that an imported "
            "module (--import MODULE) registers with AutoConfig and an auto class."
        )
    built_from: Any = getattr(found, "config_class", None) or object
    if not isinstance(config, built_from):
        raise UnsupportedModelError(
            f"{source} has the model_type {shown(config.model_type)}, but {name} (architectures in config.json) is "
            f"built from a {built_from.__name__}. Restore the original config.json."
        )
    return found


def _load_weights(path: str, hub: dict[str, Any], model_class: Any, dtype: Any) -> Any:
    from hf_vbp.checkpoint.from_pretrained import from_pretrained

    with without_progress_bars():
        model, info = from_pretrained(path, auto_class=model_class, dtype=dtype, output_loading_info=True, **hub)
    # Many backbones are published without a pooler (DINO, classifiers without their head).
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
    if missing:
        raise CheckpointError(
            f"{path} lacks weights of {type(model).__name__} ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}), which would be random. Save the complete model first."
        )
    if any(key.startswith("pooler.") for key in info["missing_keys"]):
        # A new one would be random: its output would enter the metric, and would differ in every evaluation.
        model.pooler = None
    return model.eval()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Turn off the progress bars of transformers, which would mix with those of a command."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _to_device(model: Any, device: "str | torch.device | None") -> Any:
    import torch

    from hf_vbp.distributed import launched_state

    try:
        return model.to(torch.device(device) if device is not None else launched_state().device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"The model cannot be moved to device {str(device)!r}: {one_line(error)}") from error


def _load_processor(path: str, hub: dict[str, Any]) -> Any:
    from hf_vbp.data.processing import load_processor

    try:
        return load_processor(path, **hub)
    except DataError:
        # `inspect` and statistics of prepared batches need none; a step that needs one raises its own error.
        return None
