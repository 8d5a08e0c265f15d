"""From the text of a recipe to checked values; an unknown name is refused with the nearest known one."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.finetune.checks import shown
from hf_vbp.workflow.finetune.yaml_text import parse_yaml, read_text, write_yaml

__all__ = ["Tree", "check_names", "check_type", "merge", "read_override", "read_yaml", "section_of", "write_yaml"]

Tree = dict[str, Any]
_MOST_PARTS = 5


def read_yaml(path: str | Path) -> Tree:
    """Read a recipe.

    Raises:
        ConfigurationError: There is no such file, or it is not YAML with names at the top.
    """
    tree = parse_yaml(read_text(path), str(path))
    if not isinstance(tree, dict):
        raise ConfigurationError(f"The recipe {path} has no fields; expected lines such as `output: recovered`.")
    return tree


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """Return ``base`` with its fields replaced by those of ``over``, section by section."""
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
    parts = name.split(".")
    if not separator or len(parts) > _MOST_PARTS or not all(part.isidentifier() for part in parts):
        raise ConfigurationError(
            f"{shown(text)} is neither a recipe (FILE.yaml) nor a field with a value, such as "
            "training.learning_rate=1e-4."
        )
    tree: Any = parse_yaml(value, name)
    for part in reversed(parts):
        tree = {part: tree}
    found: Tree = tree
    return found


def check_names(given: Mapping[str, Any], known: Sequence[str], section: str) -> None:
    """Refuse an unknown field; the message names the nearest known one.

    Args:
        given: The fields of a section.
        known: The names of its fields.
        section: The name of the section; empty for the top.

    Raises:
        ConfigurationError: A field is unknown.
    """
    for name in given:
        if name not in known:
            text = str(name)[:100]
            label = f"{section}.{text}" if section else text
            near = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known)[:12])}."
            raise ConfigurationError(f"The recipe has an unknown field {label}: {hint}")


def check_type(value: Any, expected: Any, label: str) -> Any:
    """Return a value as the type of its field; a whole number is accepted for a float.

    Args:
        value: The value in the recipe.
        expected: ``bool``, ``int``, ``float``, ``str``; other types are not checked.
        label: Name of the field in the message.

    Raises:
        ConfigurationError: The value has another type.
    """
    if value is None or expected not in (bool, int, float, str):
        return value
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        # Beyond any float: infinite, which the check of the range refuses.
        return float(value) if value.bit_length() < 1000 else float("inf")
    if type(value) is not expected:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ConfigurationError(f"{label} is {shown(value)}; expected {names[expected]}.")
    return value


def section_of(tree: Mapping[str, Any], name: str, *, required: bool = False, label: str = "") -> Tree:
    """Return a section of a recipe, empty where there is none.

    Args:
        tree: The section that holds it.
        name: Its name.
        required: Whether it must be present.
        label: Its name in the message; by default ``name``.

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
        raise ConfigurationError(f"{label} is {shown(value)}; expected fields below it, such as `source: sample`.")
    return value
