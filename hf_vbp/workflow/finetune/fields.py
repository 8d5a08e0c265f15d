"""From the text of a recipe to checked values, with the nearest right name where one is wrong."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from hf_vbp.errors import ConfigurationError

Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML that reads as YAML 1.2 does, where ``1e-4`` is a number and ``no`` is a text.

    1.1 takes them for a text and for false, so that ``save_strategy: no`` would not say what it says.
    """


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def read_yaml(path: str | Path) -> Tree:
    """Read a recipe.

    Raises:
        ConfigurationError: There is no such file, or it is not YAML with names at the top.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The recipe {path} cannot be read: {error}.") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigurationError(f"The recipe {path} holds no fields; expected lines such as `output: recovered`.")
    return tree


def parse_yaml(text: str, where: str) -> Any:
    """Return what a text in YAML holds.

    Args:
        text: The text.
        where: Where it is from, for the message.

    Raises:
        ConfigurationError: It is not YAML; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigurationError(f"{where}{line}: {problem}.") from error


def write_yaml(tree: Mapping[str, Any]) -> str:
    """Return a recipe as text, its fields in their order."""
    text: str = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=119)
    return text


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """Return ``base`` with the fields of ``over`` in place of its own, section by section."""
    merged = dict(base)
    for name, value in over.items():
        own = merged.get(name)
        merged[name] = merge(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return merged


def read_override(text: str) -> Tree:
    """Read ``section.field=value``; the value is read as in a recipe.

    Raises:
        ConfigurationError: There is no ``=``, or no name before it.
    """
    name, separator, value = text.partition("=")
    if not separator or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(
            f"{text!r} is neither a recipe (FILE.yaml) nor a field with a value, such as training.learning_rate=1e-4."
        )
    tree: Any = parse_yaml(value, text)
    for part in reversed(name.split(".")):
        tree = {part: tree}
    found: Tree = tree
    return found


def check_names(given: Mapping[str, Any], known: Sequence[str], section: str) -> None:
    """Refuse a field that is not known, and say which one is nearest.

    Args:
        given: The fields of a section.
        known: The names of its fields.
        section: What the section is called; empty for the top.

    Raises:
        ConfigurationError: As said.
    """
    for name in given:
        if name not in known:
            label = f"{section}.{name}" if section else str(name)
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known)[:12])}."
            raise ConfigurationError(f"The recipe has a field {label}, which is not known: {hint}")


def check_type(value: Any, expected: Any, label: str) -> Any:
    """Return a value as the type of a field, where it is of it without doubt.

    Args:
        value: What the recipe says.
        expected: ``bool``, ``int``, ``float``, ``str``; anything else is not checked.
        label: What to call the field.

    Raises:
        ConfigurationError: It is not of that type.
    """
    if value is None or expected not in (bool, int, float, str):
        return value
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not expected:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ConfigurationError(f"{label} is {value!r}; expected {names[expected]}.")
    return value


def section_of(tree: Mapping[str, Any], name: str, *, required: bool = False, label: str = "") -> Tree:
    """Return a section of a recipe, empty where there is none.

    Raises:
        ConfigurationError: It is required and missing, or it is not a section.
    """
    label = label or name
    value = tree.get(name)
    if value is None:
        if required:
            raise ConfigurationError(f"The recipe has no {label}.")
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{label} is {value!r}; expected fields below it, such as `source: sample`.")
    return value
