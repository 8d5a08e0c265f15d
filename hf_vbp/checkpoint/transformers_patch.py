"""Makes ``from_pretrained`` of transformers build pruned models, with no flags and no remote code.

Four functions of transformers are wrapped: the construction of a ``PreTrainedModel`` (``__init__``, ``post_init``),
the check at the end of loading, and the saving of a config. Each wrapper only calls the original for a config without
a ``vbp`` record. ``import hf_vbp`` calls :func:`patch_transformers`; the wrapping itself waits until
``transformers.modeling_utils`` is imported, which takes seconds.

All four functions are checked before the first is wrapped. If transformers has changed, none is wrapped: there is a
warning, other models are not affected, and pruned checkpoints are refused.
"""

import functools
import inspect
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hf_vbp._progress import one_line
from hf_vbp.errors import CheckpointError

_MODELING_UTILS = "transformers.modeling_utils"
# The attribute by which a wrapper is recognized, also by a later import of this module.
_MARK = "_hf_vbp_wrapper"
Handler = Callable[..., Any]


class _State:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.wanted = False
        self.waiting = False
        self.warned = False
        self.scopes = 0
        self.wrappers: dict[tuple[str, str], _Wrapper] = {}


class _Constructions(threading.local):
    """The constructions of this thread by the id of their config; the values live as long as the construction."""

    def __init__(self) -> None:
        self.running: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


# Survives importlib.reload of this module.
_state: _State = globals().get("_state") or _State()
_constructions = _Constructions()


def patch_transformers() -> None:
    """Make transformers load and save pruned checkpoints natively, from now on.

    ``import hf_vbp`` calls it; call it again only after :func:`unpatch_transformers`. Repeated calls have no further
    effect. Models whose config has no ``vbp`` record are not affected. It imports neither torch nor transformers.

    Example:
        >>> import hf_vbp
        >>> hf_vbp.unpatch_transformers()
        >>> hf_vbp.patch_transformers()
    """
    with _state.lock:
        _state.wanted = True
        if _MODELING_UTILS in sys.modules:
            _install()
        elif not _state.waiting:
            import wrapt

            _state.waiting = True
            wrapt.register_post_import_hook(_install_if_wanted, _MODELING_UTILS)


def unpatch_transformers() -> None:
    """Restore the functions of transformers.

    Pruned models in memory still work and can be saved; their checkpoints then lack the modeling file. Pruned
    checkpoints still load through :func:`hf_vbp.from_pretrained`.
    """
    with _state.lock:
        _state.wanted = False
        _uninstall_if_unused()


@contextmanager
def patched() -> Iterator[str | None]:
    """Patch transformers inside a ``with`` block, whether or not :func:`unpatch_transformers` was called.

    Yields:
        None, or the reason why this version of transformers cannot be patched.
    """
    import transformers.modeling_utils  # noqa: F401 - has the functions to wrap

    with _state.lock:
        _state.scopes += 1
        problem = _install()
    try:
        yield problem
    finally:
        with _state.lock:
            _state.scopes -= 1
            _uninstall_if_unused()


def _install_if_wanted(_: object) -> None:
    with _state.lock:
        if _state.wanted:
            _install()


class _Wrapper:
    """One wrapped function, which only calls the original while no handler is set.

    A handler takes a function without arguments, which calls the original, and by keyword the arguments of the call
    that it names. Another library may wrap the wrapper and keep it, so removing it does not always turn it off.
    """

    def __init__(self, original: Any, names: tuple[str, ...]) -> None:
        function = original.__func__ if isinstance(original, staticmethod) else original
        self.original = original
        self.handler: Handler | None = None
        self.names = names
        self.signature = inspect.signature(function)
        wrapper = self._make(function)
        self.installed = staticmethod(wrapper) if isinstance(original, staticmethod) else wrapper

    def _make(self, function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            handler = self.handler
            arguments = None if handler is None else self._bind(args, kwargs)
            if handler is None or arguments is None:
                return function(*args, **kwargs)
            return handler(functools.partial(function, *args, **kwargs), **arguments)

        setattr(wrapper, _MARK, self)
        return wrapper

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError:
            # The original raises an error for these arguments.
            return None
        return {name: bound[name] for name in self.names}


def _targets() -> list[tuple[Any, str, Handler]]:
    from transformers.configuration_utils import PreTrainedConfig
    from transformers.modeling_utils import PreTrainedModel

    return [
        (PreTrainedModel, "__init__", _init),
        (PreTrainedModel, "post_init", _post_init),
        (PreTrainedModel, "_finalize_model_loading", _finalize_model_loading),
        (PreTrainedConfig, "save_pretrained", _save_config),
    ]


def _names(handler: Handler) -> tuple[str, ...]:
    return tuple(inspect.signature(handler).parameters)[1:]


def _problem(targets: list[tuple[Any, str, Handler]]) -> str | None:
    for owner, name, handler in targets:
        function = owner.__dict__.get(name)
        if not callable(function):
            return f"{owner.__name__}.{name} does not exist"
        wrapper = _existing(owner, name)
        signature = inspect.signature(function) if wrapper is None else wrapper.signature
        missing = [parameter for parameter in _names(handler) if parameter not in signature.parameters]
        if missing:
            return f"{owner.__name__}.{name} has no parameter {missing[0]!r}"
    return None


def _install() -> str | None:
    """Wrap all functions, or none; return the reason why not."""
    try:
        targets = _targets()
        problem = _problem(targets)
    except ImportError as error:
        problem = str(error)
    if problem is None:
        for owner, name, handler in targets:
            _install_one(owner, name, _names(handler)).handler = handler
        return None
    import transformers

    problem = (
        f"this hf_vbp does not support transformers {transformers.__version__} ({problem}), so pruned checkpoints "
        "cannot be loaded natively. Upgrade hf_vbp, or install an older transformers"
    )
    if not _state.warned:
        _state.warned = True
        warnings.warn(f"{problem[0].upper()}{problem[1:]}. Other models are not affected.", stacklevel=3)
    return problem


def _install_one(owner: Any, name: str, names: tuple[str, ...]) -> Any:
    wrapper = _existing(owner, name)
    if wrapper is None:
        wrapper = _Wrapper(owner.__dict__[name], names)
        setattr(owner, name, wrapper.installed)
    earlier = _state.wrappers.get((owner.__name__, name), wrapper)
    if earlier is not wrapper:
        # Another library replaced it, or wraps it without naming it; two active wrappers would do the work twice.
        earlier.handler = None
    _state.wrappers[owner.__name__, name] = wrapper
    return wrapper


def _existing(owner: Any, name: str) -> Any:
    """Return the wrapper, made by any import of this module, that a function of transformers is or wraps."""
    function = owner.__dict__[name]
    while function is not None:
        found = getattr(function, _MARK, None)
        if found is not None:
            return found
        function = getattr(function, "__wrapped__", None)
    return None


def _uninstall_if_unused() -> None:
    if _state.wanted or _state.scopes or not _state.wrappers:
        return
    for owner, name, _ in _targets():
        wrapper = _state.wrappers.get((owner.__name__, name))
        if wrapper is not None:
            wrapper.handler = None
            if owner.__dict__.get(name) is wrapper.installed:
                setattr(owner, name, wrapper.original)
                del _state.wrappers[owner.__name__, name]


def _record(config: Any) -> Any:
    from hf_vbp.modeling.modeling_hf_vbp import read_record

    try:
        return read_record(config)
    except ValueError as error:
        raise CheckpointError(f"{_source(config)}: {one_line(error)}") from error


def _source(config: Any) -> str:
    return getattr(config, "name_or_path", "") or "This config"


def _init(call: Callable[[], None], self: Any, config: Any) -> None:
    call()
    if _any_record(config) and id(config) not in _constructions.running:
        construction = _construction(config)
        _constructions.running[id(config)] = construction
        # Owned by the outermost model: if its constructor fails, both are dropped and the config is restored.
        vars(self)["_vbp_construction"] = construction


def _any_record(config: Any) -> bool:
    from hf_vbp.modeling.modeling_hf_vbp import config_tree

    return any(_record(one) is not None for one in config_tree(config))


def _construction(config: Any) -> Any:
    from hf_vbp.modeling.modeling_hf_vbp import DenseReads

    class Construction(DenseReads):
        fits = False

    return Construction(config)


def _post_init(call: Callable[[], None], self: Any) -> None:
    from hf_vbp.modeling.config_record import forget_remote_code
    from hf_vbp.modeling.modeling_hf_vbp import find_mlps, pruned_parts, resize

    record = _record(self.config)
    own = vars(self).pop("_vbp_construction", None)
    try:
        if record is not None and record.widths:
            construction = _constructions.running.get(id(self.config), own)
            if resize(self, record) and construction is not None:
                construction.fits = True
            # Inner models may hold fewer MLPs than the record describes; one of them, or the outermost, must fit.
            if own is not None and not own.fits:
                raise CheckpointError(
                    f"{_source(self.config)}: config.vbp has widths for {len(record.widths)} MLPs, but "
                    f"{type(self).__name__} has {len(find_mlps(self, record))}. "
                    "The config was changed after saving, or belongs to another model: restore it."
                )
        elif own is not None:
            # A tower or backbone is pruned; its own class may have no post_init.
            for _, part, inner in pruned_parts(self):
                _fit(part, inner)
        if own is not None:
            _merge_tokens(self)
            if not self.is_remote_code():
                forget_remote_code(self.config)
        call()
    finally:
        if own is not None:
            _constructions.running.pop(id(own.config), None)
            own.release()


def _merge_tokens(model: Any) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import merge_as_recorded

    try:
        merge_as_recorded(model)
    except ValueError as error:
        raise CheckpointError(f"{_source(model.config)}: {one_line(error)}") from error


def _fit(part: Any, record: Any) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import find_mlps, resize

    if not resize(part, record):
        raise CheckpointError(
            f"config.vbp of {type(part).__name__} has widths for {len(record.widths)} MLPs, but it has "
            f"{len(find_mlps(part, record))}. The config was changed after saving, or belongs to another model: "
            "restore it."
        )


def _finalize_model_loading(call: Callable[[], Any], model: Any, loading_info: Any) -> Any:
    from hf_vbp.modeling.modeling_hf_vbp import pruned_parts

    if not pruned_parts(model):
        return call()
    # Mismatched weights are checked first, because the original initializes them.
    _check_loaded(model, {"mismatched_keys": loading_info.mismatched_keys})
    result = call()
    _check_loaded(model, {"missing_keys": result.missing_keys})
    return result


def _check_loaded(model: Any, info: dict[str, Any]) -> None:
    from hf_vbp.modeling.modeling_hf_vbp import check_loaded

    try:
        check_loaded(model, info)
    except ValueError as error:
        raise CheckpointError(f"{_source(model.config)}: {error}") from error


def _save_config(call: Callable[[], Any], self: Any, save_directory: Any) -> Any:
    if not _any_record(self):
        return call()
    from hf_vbp.checkpoint.remote_file import remote_file_in

    with remote_file_in(save_directory, self):
        return call()
