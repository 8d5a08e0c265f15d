"""The rules of the Hub for the metadata of a model card."""

import json
import re
from typing import Any

import yaml

LICENSES = frozenset(
    {"apache-2.0", "mit", "openrail", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-4.0"}
    | {"cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0"}
    | {"agpl-3.0", "mpl-2.0", "unlicense", "wtfpl", "other", "unknown"}
)
RELATIONS = frozenset({"adapter", "merge", "quantized", "finetune"})
REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
BLOCK = re.compile(r"\A(---[ \t]*\r?\n)(.*?)(\r?\n---[ \t]*(\r?\n|\Z))", re.S)


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(map(str, keys))):
            raise yaml.YAMLError("duplicated mapping key")
        return super().construct_mapping(node, deep)


def check_card(text: str) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings that the Hub has for a card."""
    match = BLOCK.match(text)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.load(match[2], _UniqueKeys)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not isinstance(data, dict):
        return ["Invalid metadata: must be a mapping"], []
    return list(_errors(data)), []


def _errors(data: dict[str, Any]) -> Any:
    if "license" in data and not set(_strings(data["license"])) <= LICENSES:
        yield f'"license" must be one of [{", ".join(sorted(LICENSES))}]'
    for key in ("base_model", "datasets"):
        for value in _strings(data.get(key, [])):
            if not REPO_ID.fullmatch(value):
                yield f'"{key}" with value "{value}" is not valid. Use a model id from the Hub.'
    if data.get("base_model_relation", "finetune") not in RELATIONS:
        yield '"base_model_relation" must be one of [adapter, merge, quantized, finetune]'
    for key in ("tags", "metrics"):
        if key in data and not (isinstance(data[key], list) and all(isinstance(tag, str) for tag in data[key])):
            yield f'"{key}" must be an array of strings'
    for key in ("library_name", "pipeline_tag", "model_name"):
        if key in data and not isinstance(data[key], str):
            yield f'"{key}" must be a string'
    yield from _index_errors(data.get("model-index", []))


def _index_errors(index: Any) -> Any:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        where = f"model-index[{number}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            yield f'"{where}.name" is required'
            continue
        for place, result in enumerate(model.get("results", [])):
            for keys in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not isinstance((result.get(keys[0]) or {}).get(keys[1]), str):
                    yield f'"{where}.results[{place}].{".".join(keys)}" is required'
            for metric in result.get("metrics") or [{}]:
                value = metric.get("value")
                if not isinstance(metric.get("type"), str) or value is None or value != value:
                    yield f'"{where}.results[{place}].metrics" needs type and value'


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(item) for item in values]


def card_data(text: str) -> dict[str, Any]:
    """Return the metadata of a card as the API sends them; nothing for a card that no push could have sent."""
    match = BLOCK.match(text)
    try:
        loaded = yaml.safe_load(match[2]) if match else None
        json.dumps(loaded)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
