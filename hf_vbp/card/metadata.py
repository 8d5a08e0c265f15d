"""From the facts to the metadata at the head of the card, and the checks that need no network."""

import math
import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_vbp.card.facts import CardFacts
from hf_vbp.errors import ConfigurationError

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
RELATIONS = frozenset({"adapter", "merge", "quantized", "finetune"})
_METRICS = {"top1": ("accuracy", "top-1 accuracy"), "top5": ("top_5_accuracy", "top-5 accuracy")}
_HUB_SOURCE = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<config>[\w.-]+))?")


def dataset_id(data: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return the Hub id and the configuration of a data set; None when it did not come from the Hub."""
    match = _HUB_SOURCE.fullmatch(str(data.get("source", "")))
    if match is None or data.get("kind") != "hub":
        return None
    return match["id"], match["config"]


def evaluation_results(facts: CardFacts) -> list[EvalResult]:
    """Return the rows of the ``model-index``: this model only, plain numbers only."""
    state = facts.final_state
    data = facts.results.get("data", {}).get("evaluation")
    if state is None or data is None or not facts.is_classifier:
        return []
    figures = facts.results["evaluation"][state]
    hub = dataset_id(data)
    name = hub[0] if hub else str(data["source"])
    rows = []
    for key, (metric, label) in _METRICS.items():
        if key in figures and math.isfinite(figures[key]):
            rows.append(
                EvalResult(
                    task_type="image-classification",
                    task_name="Image classification",
                    dataset_type=name if hub else "image_folder",
                    dataset_name=name,
                    dataset_config=hub[1] if hub else None,
                    dataset_split=data.get("split"),
                    dataset_revision=data.get("revision"),
                    metric_type=metric,
                    metric_name=label,
                    metric_value=float(figures[key]),
                )
            )
    return rows


def tags(facts: CardFacts) -> list[str]:
    """Return the tags: what it is and how it was made."""
    found = ["pruned", "hf_vbp", "structured-pruning", "variance-based-pruning"]
    found.append(str(facts.results["base_model"]["model_type"]))
    if "remote_code" in facts.ways:
        found.append("custom_code")
    return found


def library_name(facts: CardFacts) -> str:
    """Return ``transformers`` where its own ``from_pretrained`` was seen to load the checkpoint."""
    return "transformers" if facts.ways & {"remote_code", "stock"} else "hf_vbp"


def card_metadata(facts: CardFacts, existing: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata of the card.

    Args:
        facts: What is known.
        existing: Metadata of the card that stands there now: keys of the user's own stay, tags are united.
    """
    results = evaluation_results(facts)
    own: dict[str, Any] = {
        "tags": [*tags(facts), *(tag for tag in _strings(existing.get("tags")) if tag not in tags(facts))],
        "library_name": library_name(facts),
        "base_model": facts.base_id,
        "base_model_relation": "finetune" if facts.is_finetuned and facts.base_id else None,
        "pipeline_tag": "image-classification" if facts.is_classifier else "image-feature-extraction",
        "metrics": ["accuracy"] if results else None,
        "eval_results": results or None,
        "model_name": facts.name if results else None,
    }
    if facts.base is not None:
        own |= {
            "license": existing.get("license") or facts.base.license,
            "license_name": existing.get("license_name") or facts.base.license_name,
            "license_link": existing.get("license_link") or facts.base.license_link,
            "datasets": list(facts.base.datasets) or None,
        }
    ours = {key: value for key, value in own.items() if value is not None}
    dropped = {"model-index", "base_model_relation", *ours}
    kept = {key: value for key, value in existing.items() if key not in dropped and value is not None}
    return ModelCardData(**ours, **kept)


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse what the Hub would refuse, before anything is sent.

    Raises:
        ConfigurationError: A value has the wrong type or form; the message names the key.
    """
    for key in ("base_model", "datasets"):
        for value in _strings(metadata.get(key)):
            if not REPO_ID.fullmatch(value):
                raise ConfigurationError(
                    f"The card's {key} is {value!r}, but the Hub takes repository ids such as 'facebook/deit-tiny' "
                    "only. Give the id of the base model on the Hub, or leave it out."
                )
    relation = metadata.get("base_model_relation", "finetune")
    if relation not in RELATIONS:
        raise ConfigurationError(
            f"The card's base_model_relation is {relation!r}; the Hub knows {', '.join(sorted(RELATIONS))}."
        )
    for key in ("tags", "metrics"):
        value = metadata.get(key, [])
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigurationError(f"The card's {key} must be a list of texts, not {value!r}.")
    for key in ("license", "library_name", "pipeline_tag"):
        if not isinstance(metadata.get(key, ""), str):
            raise ConfigurationError(f"The card's {key} must be a text, not {metadata[key]!r}.")
    _check_plain(metadata, "")


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, where)
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ConfigurationError(
            f"The card's {where} is a {type(value).__name__}; metadata holds plain numbers and texts only."
        )
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"The card's {where} is not a finite number.")


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
