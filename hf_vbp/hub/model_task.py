"""The task of a model class, from the tables of transformers."""

from collections.abc import Mapping
from typing import Any

from hf_vbp.card.model_task import FEATURES, SAMPLES, TAGS, ModelTask, task_by_name
from hf_vbp.checkpoint.model_classes import auto_class_of, find_model_class
from hf_vbp.modeling.modeling_hf_vbp import auto_classes

_FEATURE_CLASSES = ("AutoModel", "AutoBackbone")


def model_task(results: Mapping[str, Any]) -> ModelTask:
    """Return how the model of a results file is loaded, and its task.

    Args:
        results: The results file. A class that transformers does not have is judged by its name.
    """
    described = results.get("base_model", {})
    architecture, model_type = str(described.get("architecture")), str(described.get("model_type"))
    tables = auto_classes()
    holders = {name for name, table in tables.items() if architecture in _names(table.values())}
    known = find_model_class(architecture, model_type)
    if not holders and (known is None or not known.__module__.startswith("transformers.")):
        return task_by_name(architecture)
    sample = next((unit for name, unit in SAMPLES.items() if model_type in tables.get(name, ())), "image")
    auto_class = auto_class_of(architecture)
    return ModelTask(auto_class, _module(auto_class, known), _tag(architecture, holders, sample), sample)


def _tag(architecture: str, holders: set[str], sample: str) -> str | None:
    for name, tag in TAGS.items():
        if name in holders:
            return tag
    # Towers with a projection, and some of language models, belong to no auto class.
    gives_features = bool(holders & set(_FEATURE_CLASSES)) or "Vision" in architecture
    return FEATURES if gives_features and sample == "image" else None


def _names(values: Any) -> set[str]:
    return {name for value in values for name in ((value,) if isinstance(value, str) else value)}


def _module(auto_class: str, known: Any) -> str:
    import transformers

    if known is None or auto_class != known.__name__ or hasattr(transformers, auto_class):
        return "transformers"
    return str(known.__module__)
