"""From the facts to the metadata at the head of the card, and the checks that need no network."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from hf_vbp.card.facts import CardFacts
from hf_vbp.card.front_matter import check_plain
from hf_vbp.errors import ConfigurationError

REPO_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,95})?")
RELATIONS = frozenset({"adapter", "merge", "quantized", "finetune"})
_METRICS = {"top1": ("accuracy", "top-1 accuracy"), "top5": ("top_5_accuracy", "top-5 accuracy")}
_FORMAT_TAGS = {"onnx": ("onnx", "transformers.js"), "openvino": ("openvino",), "executorch": ("executorch",)}
_HUB_SOURCE = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+)(?::(?P<config>[A-Za-z0-9_.-]+))?")


def dataset_id(data: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return the Hub id and the configuration of a data set; None when it did not come from the Hub."""
    match = _HUB_SOURCE.fullmatch(str(data.get("source", "")))
    if match is None or data.get("kind") != "hub":
        return None
    return match["id"], match["config"]


def model_index(facts: CardFacts) -> list[dict[str, Any]]:
    """Return the ``model-index``: figures of this model only; empty where it was not evaluated."""
    state = facts.final_state
    data = facts.results.get("data", {}).get("evaluation")
    if state is None or data is None or not facts.is_classifier:
        return []
    figures = facts.results["evaluation"][state]
    hub = dataset_id(data)
    name = hub[0] if hub else str(data["source"])
    rows = [
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
        for key, (metric, label) in _METRICS.items()
        if key in figures
    ]
    index: list[dict[str, Any]] = eval_results_to_model_index(facts.name, rows) if rows else []
    return index


def tags(facts: CardFacts) -> list[str]:
    """Return the tags: kind of model and method."""
    found = (
        ["pruned", "hf_vbp", "structured-pruning", "variance-based-pruning"] if facts.removes_neurons else ["hf_vbp"]
    )
    if facts.merging:
        found.append("token-merging")
    found.append(str(facts.results["base_model"]["model_type"]))
    if "remote_code" in facts.ways:
        found.append("custom_code")
    formats = {str(row["format"]) for row in facts.exports}
    # The filters of the Hub; transformers.js finds a model by both of its tags.
    found += [tag for name, given in _FORMAT_TAGS.items() if name in formats for tag in given]
    return found


def library_name(facts: CardFacts) -> str:
    """Return ``transformers`` where the receipt shows that its own ``from_pretrained`` loads the checkpoint."""
    return "transformers" if facts.ways & {"remote_code", "stock"} else "hf_vbp"


def card_metadata(facts: CardFacts, existing: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the card.

    Args:
        facts: The facts of the card.
        existing: Metadata of the present card: the user's own keys are kept, tags are united.
    """
    index = model_index(facts)
    base = facts.base
    known: dict[str, Any] = {
        "base_model": facts.base_id,
        "datasets": (list(base.datasets) or None) if base else None,
        "library_name": library_name(facts),
        "license": (existing.get("license") or base.license) if base else None,
        "license_name": (existing.get("license_name") or base.license_name) if base else None,
        "license_link": (existing.get("license_link") or base.license_link) if base else None,
        "metrics": ["accuracy"] if index else None,
        "pipeline_tag": facts.task.pipeline_tag,
        "tags": list(dict.fromkeys([*tags(facts), *_strings(existing.get("tags"))])),
        "base_model_relation": "finetune" if facts.is_finetuned and facts.base_id else None,
    }
    ours = {key: value for key, value in known.items() if value is not None}
    dropped = {"model-index", "base_model_relation", *ours}
    kept = {key: value for key, value in existing.items() if key not in dropped and value is not None}
    return {**ours, **kept, **({"model-index": index} if index else {})}


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Refuse metadata that the Hub would refuse.

    Raises:
        ConfigurationError: A value has the wrong type or form; the message names the key.
    """
    for key in ("base_model", "datasets"):
        for value in _strings(metadata.get(key)):
            if not REPO_ID.fullmatch(value):
                raise ConfigurationError(
                    f"The card's {key} is {_shown(value)}, but the Hub accepts repository ids such as "
                    "'facebook/deit-tiny' only. Give the id of the base model on the Hub, or leave it out."
                )
    relation = metadata.get("base_model_relation", "finetune")
    if relation not in RELATIONS:
        raise ConfigurationError(
            f"The card's base_model_relation is {_shown(relation)}; expected {', '.join(sorted(RELATIONS))}."
        )
    for key in ("tags", "metrics"):
        value = metadata.get(key, [])
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigurationError(f"The card's {key} is {_shown(value)}; expected a list of texts.")
    for key in ("license", "library_name", "pipeline_tag"):
        if not isinstance(metadata.get(key, ""), str):
            raise ConfigurationError(f"The card's {key} is {_shown(metadata[key])}; expected a text.")
    check_plain(metadata)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) and len(value) <= 100 else f"a {type(value).__name__}"


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
