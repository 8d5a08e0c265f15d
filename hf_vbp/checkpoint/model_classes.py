"""Find the class that a checkpoint was saved from: one of transformers, or one registered with its auto classes."""

from contextlib import suppress
from importlib import import_module
from typing import Any

from hf_vbp.modeling.modeling_hf_vbp import auto_classes

USUAL_LOADER = "AutoModelForImageClassification"
# The classes that are looked through first.
_USUAL = (USUAL_LOADER, "AutoModel")
# Loads from the Hub only.
_HUB_ONLY = "AutoBackbone"


def find_model_class(name: Any, model_type: Any) -> Any:
    """Return the class of models with a name, None where there is none.

    Args:
        name: Its name, as ``architectures`` of a config holds it.
        model_type: The model type of the config. A class outside transformers is found where its module was imported
            and has registered its config with ``AutoConfig`` and the class with an auto class.
    """
    import transformers

    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        return None
    config_class = transformers.CONFIG_MAPPING[model_type]
    registered = next((cls for cls in _registered(config_class) if cls.__name__ == name), None)
    return registered or _not_exported(config_class, name)


def _not_exported(config_class: type, name: Any) -> Any:
    """Return a class of transformers that is in the modeling file of its config, but not exported at the top."""
    import transformers

    module = config_class.__module__
    if not module.startswith("transformers.models.") or not isinstance(name, str):
        return None
    with suppress(ImportError):
        found = getattr(import_module(module.replace(".configuration_", ".modeling_")), name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return None


def _registered(config_class: type) -> list[type]:
    """Return the classes that users have registered for a config."""
    from transformers.models.auto import modeling_auto

    found = []
    for value in vars(modeling_auto).values():
        mapping = getattr(value, "_model_mapping", None)
        # Only what was registered: the others would be imported.
        given = getattr(mapping, "_extra_content", {}).get(config_class, ())
        found += list(given) if isinstance(given, tuple | list) else [given]
    return found


def auto_class_of(architecture: str) -> str:
    """Return the name of the auto class that loads a class from a folder, of the class itself where none does.

    Args:
        architecture: The name of the class.
    """
    tables = auto_classes()
    for name in (*_USUAL, *(name for name in tables if name not in (*_USUAL, _HUB_ONLY))):
        if any(architecture in ((names,) if isinstance(names, str) else names) for names in tables[name].values()):
            return name
    return architecture
