"""Check JSON values against the types of the results sections."""

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from hf_vbp._progress import one_line
from hf_vbp.results.figures import Bounds, Length, is_open

LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 32
_NAMES = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


def strict_json(text: str) -> Any:
    """Read JSON that has no NaN, no infinity and no key twice.

    Raises:
        ValueError: The text is not such JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise ValueError(f"the key {one_line(ValueError(repr(twice)), 60)} appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def find_problem(value: Any, kind: Any, where: str = "") -> str | None:
    """Return a sentence about the first field that does not match a kind; None where everything matches.

    Args:
        value: A JSON value.
        kind: A ``TypedDict`` class or a type of :mod:`hf_vbp.results.figures`.
        where: Name of the value, for instance ``plan.budget``.
    """
    return next(_problems(value, kind, where), None)


def _problems(value: Any, kind: Any, where: str) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        yield from _section(value, kind, where)
    elif origin in (NotRequired, Required):
        yield from _problems(value, arguments[0], where)
    elif origin is Annotated:
        yield from _problems(value, arguments[0], where)
        for constraint in arguments[1:]:
            yield from _constraint(value, constraint, where)
    elif origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in arguments):
            yield _sentence(where, value, f"one of {', '.join(map(repr, arguments))}")
    elif origin in (Union, UnionType):
        found = [list(_problems(value, choice, where)) for choice in arguments]
        if all(found):
            yield from found[0]
    elif origin is list:
        if not isinstance(value, list):
            yield _sentence(where, value, "a list")
            return
        for index, item in enumerate(value):
            yield from _problems(item, arguments[0], f"{where}[{index}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield _sentence(where, value, "an object")
            return
        for key, item in value.items():
            yield from _problems(item, arguments[1], _join(where, key))
    elif kind is Any:
        yield from _plain(value, where, _DEEPEST)
    else:
        yield from _scalar(value, kind, where)


@cache
def hints_of(section: type) -> Mapping[str, Any]:
    """Return name to type of the keys of a section."""
    return get_type_hints(section, include_extras=True)


def _section(value: Any, section: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _sentence(where, value, "an object")
        return
    hints = hints_of(section)
    for key in hints:
        if key not in value:
            if key in section.__required_keys__:
                yield f"{_join(where, key)} is missing."
        else:
            yield from _problems(value[key], hints[key], _join(where, key))
    for key in value:
        if key not in hints:
            if is_open(section):
                yield from _plain(value[key], _join(where, key), _DEEPEST)
            else:
                yield f"{_join(where, key)} is not a known field; expected {', '.join(sorted(hints))}."


def _plain(value: Any, where: str, depth: int) -> Iterator[str]:
    if depth == 0:
        yield f"{where} is nested more than {_DEEPEST} levels deep."
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _plain(item, _join(where, key), depth - 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _plain(item, f"{where}[{index}]", depth - 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _scalar(value, type(value), where)


def _scalar(value: Any, kind: Any, where: str) -> Iterator[str]:
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted:
        yield _sentence(where, value, _NAMES[kind])
    elif isinstance(value, float) and not math.isfinite(value):
        yield _sentence(where, value, "a finite number")
    elif type(value) is int and abs(value) > LARGEST_INTEGER:
        yield _sentence(where, value, f"at most {LARGEST_INTEGER}")


def _constraint(value: Any, constraint: Any, where: str) -> Iterator[str]:
    if isinstance(constraint, Length) and isinstance(value, list) and len(value) != constraint.items:
        yield f"{where} has {len(value)} items; expected {constraint.items}."
    if not isinstance(constraint, Bounds) or not isinstance(value, int | float):
        return
    if constraint.minimum is not None and value < constraint.minimum:
        yield _sentence(where, value, f"at least {constraint.minimum:g}")
    if constraint.maximum is not None and value > constraint.maximum:
        yield _sentence(where, value, f"at most {constraint.maximum:g}")
    if constraint.above is not None and value <= constraint.above:
        yield _sentence(where, value, f"more than {constraint.above:g}")


def _join(where: str, key: str) -> str:
    name = key if key.isidentifier() and len(key) <= 60 else one_line(ValueError(repr(key)), 60)
    return f"{where}.{name}" if where else name


def _sentence(where: str, value: Any, expected: str) -> str:
    if isinstance(value, dict | list):
        given = "an object" if isinstance(value, dict) else "a list"
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        given = f"an integer of {value.bit_length()} bits"
    else:
        given = one_line(ValueError(json.dumps(value)), 60)
    return f"{where or 'the content'} is {given}; expected {expected}."
