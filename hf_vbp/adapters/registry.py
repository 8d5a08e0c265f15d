"""The adapters by ``model_type``.

Adapters of other distributions are found through package entry points of the group ``hf_vbp.adapters``: the name of
the entry point is the model type, its value the adapter (``module:object``). They are imported on first use.
"""

from torch import nn

from hf_vbp.adapters.base import Adapter, MLPSite
from hf_vbp.adapters.prunable import check_prunable
from hf_vbp.adapters.table import TableAdapter
from hf_vbp.config.entry_points import entry_point_names, load_entry_point
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError, UnsupportedModelError

ENTRY_POINTS = "hf_vbp.adapters"
"""Group of the package entry points."""

_ADAPTERS: dict[str, Adapter] = {}

_TABLE = TableAdapter()


def registered_model_types() -> tuple[str, ...]:
    """Return the model types with an adapter of their own, sorted. All others use the table of MLPs."""
    return tuple(sorted(_ADAPTERS.keys() | entry_point_names(ENTRY_POINTS)))


def register_adapter(model_type: str, adapter: Adapter, *, overwrite: bool = False) -> None:
    """Use an adapter for the models of one ``model_type``, in place of the table of MLPs.

    Args:
        model_type: Value of ``config.model_type``, for instance ``"beit"``.
        adapter: Finds the MLP sites of such a model.
        overwrite: Whether to replace the adapter of this model type.

    Raises:
        ConfigurationError: The model type has an adapter and ``overwrite`` is false, or ``adapter`` is a class or
            lacks a method of :class:`~hf_vbp.adapters.Adapter`.

    Example:
        >>> from hf_vbp.adapters import LinearPairAdapter, register_adapter, registered_model_types
        >>> register_adapter("ijepa", LinearPairAdapter())
        >>> registered_model_types()
        ('ijepa',)
    """
    if isinstance(adapter, type):
        raise ConfigurationError(
            f"The adapter for {model_type!r} is the class {adapter.__name__}; pass an instance, {adapter.__name__}()."
        )
    missing = [name for name in ("find_sites", "left_out") if not callable(getattr(adapter, name, None))]
    if missing:
        raise ConfigurationError(f"The adapter for {model_type!r} lacks {', '.join(missing)}; see docs/adapters.md.")
    if model_type in _ADAPTERS and not overwrite:
        raise ConfigurationError(
            f"{model_type!r} has an adapter already ({type(_ADAPTERS[model_type]).__name__}); "
            "pass overwrite=True to replace it."
        )
    _ADAPTERS[model_type] = adapter


def get_adapter(model: nn.Module) -> Adapter:
    """Return the adapter of a model.

    Args:
        model: A transformers model, whole and plain.

    Raises:
        UnsupportedModelError: The model is wrapped, quantized or sharded.
    """
    check_prunable(model)
    return adapter_of(model)


def adapter_of(model: nn.Module) -> Adapter:
    """Return the adapter of a model that :func:`check_prunable` accepted.

    Args:
        model: The model.
    """
    model_type = str(getattr(model.config, "model_type", ""))
    if model_type not in _ADAPTERS:
        installed = load_entry_point(ENTRY_POINTS, model_type)
        # The module that was imported may have registered the adapter by itself.
        if installed is not None and model_type not in _ADAPTERS:
            register_adapter(model_type, installed)
    return _ADAPTERS.get(model_type, _TABLE)


def find_sites(model: nn.Module) -> tuple[MLPSite, ...]:
    """Return the MLP sites of a model in the order of the forward pass.

    Args:
        model: A transformers model, whole and plain, with any head.

    Returns:
        At least one site; plans and configs identify a site by its position in the tuple.

    Raises:
        UnsupportedModelError: The model cannot be pruned as it is, or has no MLP where its family has them.
    """
    check_prunable(model)
    return sites_of(model)


def sites_of(model: nn.Module) -> tuple[MLPSite, ...]:
    """Return the MLP sites of a model that :func:`check_prunable` accepted; see :func:`find_sites`.

    Args:
        model: The model.

    Raises:
        UnsupportedModelError: It has no MLP that can be pruned.
        ConfigurationError: The adapter of a user raised an error, or returned other objects.
    """
    adapter = adapter_of(model)
    model_type = getattr(model.config, "model_type", None)
    with named_in_errors(f"find_sites of the adapter for {model_type!r}", type(adapter)):
        sites = tuple(adapter.find_sites(model))
    others = [site for site in sites if not isinstance(site, MLPSite)]
    if others:
        raise ConfigurationError(
            f"find_sites of the adapter for {model_type!r} returned a {type(others[0]).__name__}, expected objects of "
            "MLPSite; MLPSite.named makes one, see docs/adapters.md."
        )
    if not sites:
        raise UnsupportedModelError(
            f"{type(model).__name__} (model_type {model_type!r}) has no MLP that can be pruned"
            + "".join(f"; {name} is left out: {reason}" for name, reason in list(left_out_of(model).items())[:3])
            + ". If it has MLPs of another layout, register an adapter with hf_vbp.register_adapter, see "
            "docs/adapters.md."
        )
    return sites


def left_out_of(model: nn.Module) -> dict[str, str]:
    """Return the modules of a model that look like an MLP and are not pruned, with the reason.

    Args:
        model: A model that :func:`check_prunable` accepted.

    Raises:
        ConfigurationError: The adapter of a user raised an error.
    """
    adapter = adapter_of(model)
    with named_in_errors(f"left_out of the adapter of {type(model).__name__}", type(adapter)):
        return dict(adapter.left_out(model))
