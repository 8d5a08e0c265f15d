"""Generate a JSON schema from the types of the results sections."""

import inspect
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, is_typeddict

from hf_vbp.results.checks import hints_of
from hf_vbp.results.figures import Bounds, Length, is_open

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
_KEYWORDS = {"minimum": "minimum", "maximum": "maximum", "above": "exclusiveMinimum"}


def make_schema(section: type, title: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a section.

    Args:
        section: A ``TypedDict`` class; the sections within it become ``$defs``.
        title: Title of the schema.
    """
    definitions: dict[str, Any] = {}
    root = _object(section, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def _object(section: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": (inspect.getdoc(section) or "").splitlines()[0], "type": "object"}
    hints = hints_of(section)
    required = [name for name in hints if name in section.__required_keys__]
    if required:
        described["required"] = required
    if not is_open(section):
        described["additionalProperties"] = False
    described["properties"] = {name: _schema(hint, definitions) for name, hint in hints.items()}
    return described


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin in (NotRequired, Required):
        return _schema(arguments[0], definitions)
    if origin is Annotated:
        return _schema(arguments[0], definitions) | _keywords(arguments[1:])
    if origin is Literal:
        return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(choice, definitions) for choice in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        values = _schema(arguments[1], definitions)
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    return {} if kind is Any else {"type": _TYPES[kind]}


def _keywords(constraints: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for constraint in constraints:
        if isinstance(constraint, str):
            found["description"] = constraint
        elif isinstance(constraint, Length):
            found |= {"minItems": constraint.items, "maxItems": constraint.items}
        elif isinstance(constraint, Bounds):
            values = {name: getattr(constraint, name) for name in _KEYWORDS}
            found |= {_KEYWORDS[name]: value for name, value in values.items() if value is not None}
    return found
