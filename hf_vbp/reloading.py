"""Makes stock ``from_pretrained`` build pruned models, with no flags and no remote code.

One place in transformers is wrapped, :class:`PreTrainedModel`'s construction, and each wrapper does nothing for
a config without a ``vbp`` record. ``import hf_vbp`` arms this (:func:`arm`); the wrapping itself waits until
``transformers.modeling_utils`` is imported, which takes seconds.
"""

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hf_vbp.errors import CheckpointError, HfVbpError

_MODELING_UTILS = "transformers.modeling_utils"
_lock = threading.RLock()
_wanted = False
_armed = False
_scopes = 0
_originals: list[tuple[Any, str, Any, Any]] = []
# The configs that a constructor is working with just now, by id. The values live as long as the construction.
_constructions: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()


def arm() -> None:
    """Enable reloading as soon as ``transformers.modeling_utils`` is imported, or now if it is already.

    Cheap: imports neither torch nor transformers. ``import hf_vbp`` calls it.
    """
    enable()


def enable() -> None:
    """Let transformers load and save pruned checkpoints natively, from now on.

    ``import hf_vbp`` does this already; it is needed again only after :func:`disable`. Calling it twice is
    calling it once. Models whose config has no ``vbp`` record are not affected.

    Example:
        >>> import hf_vbp
        >>> hf_vbp.disable()
        >>> hf_vbp.enable()
    """
    global _wanted, _armed
    with _lock:
        _wanted = True
        if _MODELING_UTILS in sys.modules:
            _install()
        elif not _armed:
            import wrapt

            _armed = True
            wrapt.register_post_import_hook(_install_if_wanted, _MODELING_UTILS)


def disable() -> None:
    """Leave transformers as it is without hf_vbp.

    Pruned models in memory go on working and can be saved; what is saved then carries no remote file.
    Pruned checkpoints load through :func:`hf_vbp.from_pretrained` still.
    """
    global _wanted
    with _lock:
        _wanted = False
        _uninstall_if_unused()


@contextmanager
def scoped() -> Iterator[None]:
    """Enable reloading inside a ``with`` block, whatever was asked for outside."""
    global _scopes
    import transformers.modeling_utils  # noqa: F401 - what the wrappers go to

    with _lock:
        _scopes += 1
        _install()
    try:
        yield
    finally:
        with _lock:
            _scopes -= 1
            _uninstall_if_unused()


def from_pretrained(path_or_id: str | os.PathLike[str], *, auto_class: Any = None, **kwargs: Any) -> Any:
    """Load a pruned or an ordinary checkpoint, touching transformers for no longer than the call.

    Works after :func:`disable` too, and is stricter than stock loading: a weight that a pruned checkpoint lacks
    is an error, never a random tensor.

    Args:
        path_or_id: A folder, or the name of a repository on the Hub.
        auto_class: What loads it, an auto class or a model class; ``AutoModelForImageClassification`` by default.
        **kwargs: What ``from_pretrained`` of transformers takes: ``dtype``, ``device_map``, ``revision``, ... With
            ``ignore_mismatched_sizes=True`` the head may be a new one (``num_labels``), the rest may not.
            ``trust_remote_code`` is False unless given: code of the checkpoint is not run, and no question is asked.

    Returns:
        The model; with ``output_loading_info=True`` the model and the information.

    Raises:
        CheckpointError: There is no readable checkpoint, its weights do not fit the widths that its config
            records, or weights are missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    auto_class = auto_class or AutoModelForImageClassification
    wants_info = kwargs.pop("output_loading_info", False)
    # None would make transformers ask on the terminal.
    kwargs.setdefault("trust_remote_code", False)
    with scoped():
        try:
            model, info = auto_class.from_pretrained(path_or_id, output_loading_info=True, **kwargs)
        except HfVbpError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{path_or_id} cannot be loaded: {_sentence(error)}") from error
    if _widths(model.config) is not None:
        _check_complete(model, info, path_or_id, kwargs.get("ignore_mismatched_sizes", False))
    return (model, info) if wants_info else model


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000] or type(error).__name__


def _check_complete(model: Any, info: dict[str, Any], source: Any, new_head: bool) -> None:
    from hf_vbp.modeling_hf_vbp import find_pairs

    widths = [pair.fc1.out_features for pair in find_pairs(model)]
    recorded = _widths(model.config)
    if len(widths) == len(recorded or ()) and widths != recorded:
        raise CheckpointError(f"{source}: the model has the widths {widths}, but its config records {recorded}.")
    prefix = f"{model.base_model_prefix}."
    is_backbone = not any(key.startswith(prefix) for key in model.state_dict())
    missing = sorted(
        key
        for key in info["missing_keys"]
        # A backbone taken out of a classifier has a pooler that no classifier has.
        if not (is_backbone and key.startswith("pooler.")) and not (new_head and not key.startswith(prefix))
    )
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} weights of {type(model).__name__} ({', '.join(missing[:3])}, ...); they "
            "would be random. Load it with the class it was saved from "
            f"({', '.join(model.config.architectures or ['unknown'])}), or pass ignore_mismatched_sizes=True for a "
            "new head."
        )


def _install_if_wanted(_: object) -> None:
    with _lock:
        if _wanted:
            _install()


def _active() -> bool:
    return _wanted or _scopes > 0


def _install() -> None:
    if _originals:
        return
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.modeling_utils import PreTrainedModel

    _wrap(PreTrainedModel, "__init__", _init)
    _wrap(PreTrainedModel, "post_init", _post_init)
    _wrap(PreTrainedModel, "_finalize_model_loading", _finalize_model_loading, static=True)
    _wrap(PreTrainedConfig, "save_pretrained", _save_config)


def _wrap(owner: Any, name: str, around: Callable[..., Any], *, static: bool = False) -> None:
    original = owner.__dict__[name]
    function = original.__func__ if static else original

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Asked on every call, because another library may have wrapped this wrapper and keep it for good.
        return around(function, *args, **kwargs) if _active() else function(*args, **kwargs)

    put = staticmethod(wrapper) if static else wrapper
    setattr(owner, name, put)
    _originals.append((owner, name, original, put))


def _uninstall_if_unused() -> None:
    if _active() or any(owner.__dict__[name] is not put for owner, name, _, put in _originals):
        return
    while _originals:
        owner, name, original, _ = _originals.pop()
        setattr(owner, name, original)


def _widths(config: Any) -> list[int] | None:
    from hf_vbp.modeling_hf_vbp import recorded_widths

    try:
        return recorded_widths(config)
    except ValueError as error:
        raise CheckpointError(f"{_source(config)}: {error}") from error


def _source(config: Any) -> str:
    return getattr(config, "name_or_path", "") or "This config"


def _init(original: Callable[..., None], self: Any, config: Any, *inputs: Any, **kwargs: Any) -> None:
    original(self, config, *inputs, **kwargs)
    if _widths(config) is not None and id(config) not in _constructions:
        construction = _construction(config)
        _constructions[id(config)] = construction
        # Owned by the outermost model: if its constructor fails, both are dropped and the config is restored.
        vars(self)["_vbp_construction"] = construction


def _construction(config: Any) -> Any:
    from hf_vbp.modeling_hf_vbp import DenseReads

    class Construction(DenseReads):
        fits = False

    return Construction(config)


def _post_init(original: Callable[..., None], self: Any) -> None:
    from hf_vbp.modeling_hf_vbp import find_pairs, resize

    widths = _widths(self.config)
    own = vars(self).pop("_vbp_construction", None)
    try:
        if widths is not None:
            construction = _constructions.get(id(self.config), own)
            if resize(self, widths) and construction is not None:
                construction.fits = True
            # Inner models may hold fewer MLPs than the widths are for; one of them, or the outermost, must fit.
            if own is not None and not own.fits:
                raise CheckpointError(
                    f"{_source(self.config)}: config.vbp has widths for {len(widths)} MLPs, but "
                    f"{type(self).__name__} has {len(find_pairs(self))}. "
                    "The config was changed after saving, or belongs to another model; restore it."
                )
            if own is not None and not self.is_remote_code():
                forget_remote_code(self.config)
        original(self)
    finally:
        if own is not None:
            own.release()


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


def _finalize_model_loading(original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    from hf_vbp.modeling_hf_vbp import check_loaded

    loading_info = kwargs.get("loading_info", args[-1] if args else None)
    if _widths(model.config) is None:
        return original(model, *args, **kwargs)
    try:
        check_loaded(model, {"mismatched_keys": loading_info.mismatched_keys})  # type: ignore[union-attr]
        result = original(model, *args, **kwargs)
        check_loaded(model, {"missing_keys": result.missing_keys})
    except ValueError as error:
        raise CheckpointError(f"{_source(model.config)}: {error}") from error
    return result


def _save_config(original: Callable[..., Any], self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    if _widths(self) is None:
        return original(self, save_directory, *args, **kwargs)
    from hf_vbp.checkpoint.remote_file import remote_file_beside

    with remote_file_beside(self, save_directory):
        return original(self, save_directory, *args, **kwargs)
