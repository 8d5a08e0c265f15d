"""A Hub id, a folder or ``sample`` in; a model and its image processor out, or a sentence that says why not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_vbp.adapters.registry import registered_model_types
from hf_vbp.checkpoint.layout import CONFIG
from hf_vbp.errors import CheckpointError, ConfigurationError, DataError, UnsupportedModelError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LoadedModel:
    """A model with what is needed to feed it and to name it.

    Attributes:
        source: What the user named: a Hub id, a folder, or ``sample``.
        model: The model, in eval mode.
        processor: Its image processor with the Pillow backend, or ``None`` if the checkpoint has none.
    """

    source: str
    model: Any
    processor: Any


def load_model(
    source: str, *, revision: str | None = None, dtype: str = "auto", device: str | None = None
) -> LoadedModel:
    """Load a dense or pruned vision transformer.

    Args:
        source: A Hub id, a folder, or ``sample`` for the model that ships with the package.
        revision: Branch, tag or commit on the Hub.
        dtype: ``auto`` (what the checkpoint says), ``float32``, ``bfloat16`` or ``float16``.
        device: Where to put it, as torch names devices; by default the device that Accelerate gives this process.

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged, or its config and weights disagree.
        UnsupportedModelError: Its family has no adapter, or it loads only with code that comes with it.
        ConfigurationError: The dtype or the device is unknown.
    """
    import torch

    if dtype not in DTYPES:
        raise ConfigurationError(f"Unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}.")
    path = _path_of(source)
    config = _load_config(path, revision)
    if config.model_type not in registered_model_types():
        raise UnsupportedModelError(
            f"{source} is a {config.model_type!r} model; hf_vbp prunes {', '.join(registered_model_types())}. "
            "For another vision transformer, hf_vbp.register_adapter says where its MLPs are, see docs/adapters.md."
        )
    model = _load_weights(path, revision, config, dtype if dtype == "auto" else getattr(torch, dtype))
    return LoadedModel(source, _to_device(model, device), _load_processor(path, revision))


def _path_of(source: str) -> str:
    if source == "sample":
        from hf_vbp.sample import sample_model_path

        return str(sample_model_path())
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"{source} holds no {CONFIG}, so it is no checkpoint. Name its folder.")
        return str(path)
    if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise CheckpointError(f"{source} is not a folder with a checkpoint, nor a Hub id such as facebook/deit-...")
    return source


def _load_config(path: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"{path} loads only with code that comes with it, which hf_vbp does not run. Expected a checkpoint of "
                "a model type that transformers itself has."
            ) from error
        raise CheckpointError(f"The config of {path} cannot be loaded: {_sentence(error)}") from error


def _load_weights(path: str, revision: str | None, config: Any, dtype: Any) -> Any:
    import transformers
    from safetensors import SafetensorError

    from hf_vbp.checkpoint.from_pretrained import from_pretrained

    architectures = config.architectures or ["AutoModelForImageClassification"]
    classifies = any("ForImageClassification" in name for name in architectures)
    auto_class = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    try:
        with without_progress_bars():
            model, info = from_pretrained(
                path, auto_class=auto_class, revision=revision, dtype=dtype, output_loading_info=True
            )
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"The weights of {path} cannot be loaded: {_sentence(error)}") from error
    # A pooler is no part of what is pruned or evaluated, and many backbones are published without one.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
    if missing:
        raise CheckpointError(
            f"{path} lacks weights of {type(model).__name__} ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}), which would stay random. Fine-tune and save it whole first."
        )
    return model.eval()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars for the files of a checkpoint into what a command shows."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _to_device(model: Any, device: str | None) -> Any:
    import torch

    from hf_vbp.distributed import launched_state

    try:
        return model.to(torch.device(device) if device is not None else launched_state().device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(f"The model cannot be put on device {device!r}: {_sentence(error)}") from error


def _load_processor(path: str, revision: str | None) -> Any:
    from hf_vbp.data.processing import load_processor

    try:
        return load_processor(path, revision=revision)
    except DataError:
        # Statistics of ready batches and `inspect` need none; who needs one says so.
        return None


def _sentence(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())[:400]
