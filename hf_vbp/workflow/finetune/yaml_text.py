"""Read the YAML of a recipe: plain values only, and nothing that takes long or much memory.

In YAML a small text can be a huge value (aliases of aliases) or an object of Python. Both are refused on the
graph of nodes, before any value is made.
"""

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml  # type: ignore[import-untyped]

from hf_vbp.errors import ConfigurationError

LARGEST_TEXT = 100_000
MOST_VALUES = 10_000
DEEPEST = 20
_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads plain values as YAML 1.2 does, where ``1e-4`` is a number, and ``no`` and ``2026-01-01`` are text.

    YAML 1.1 reads them as a text, as false and as a date, which is wrong for ``save_strategy: no``.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), list(_first))
# Without this a leading zero would make a number octal.
_Loader.add_constructor(f"{_TAG}int", lambda loader, node: int(loader.construct_scalar(node)))


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Quotes texts that a reader of YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def write_yaml(tree: Mapping[str, Any]) -> str:
    """Return fields as text, in their order; :func:`parse_yaml` reads the same values from it."""
    text: str = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=119)
    return text


def read_text(path: str | Path) -> str:
    """Return the text of a recipe.

    Raises:
        ConfigurationError: There is no such file, it is not a regular file, too large, or not text.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"The recipe {path} cannot be read: it is not a file.")
        if status.st_size > LARGEST_TEXT:
            raise ConfigurationError(
                f"The recipe {path} has {status.st_size} bytes; expected at most {LARGEST_TEXT}. Is it a recipe?"
            )
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"The recipe {path} cannot be read: {error}.") from error


def parse_yaml(text: str, where: str) -> Any:
    """Return the fields in a text in YAML.

    Args:
        text: The text.
        where: Its origin, for the message.

    Raises:
        ConfigurationError: It is not YAML, is too large, or holds something other than plain values.
    """
    if len(text) > LARGEST_TEXT:
        raise ConfigurationError(f"{where}: {len(text)} characters; expected at most {LARGEST_TEXT}.")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node, {}, where, depth=1)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigurationError(f"{where}{line}: {problem}.") from error
    except RecursionError as error:
        raise ConfigurationError(f"{where}: values are nested too deeply; expected at most {DEEPEST}.") from error
    except ValueError as error:
        if isinstance(error, ConfigurationError):
            raise
        # Python limits the digits of a number that is read from text.
        raise ConfigurationError(f"{where}: a number is too long.") from error


def _check_node(node: Any, sizes: dict[int, int], where: str, *, depth: int) -> int:
    """Return the number of values of a node; aliases count as often as they occur."""
    if depth > DEEPEST:
        raise ConfigurationError(f"{_at(where, node)}: values are nested too deeply; expected at most {DEEPEST}.")
    if node.tag not in _PLAIN:
        raise ConfigurationError(f"{_at(where, node)}: the tag {node.tag[:100]!r} is not allowed in a recipe.")
    if id(node) in sizes:
        return sizes[id(node)]
    parts: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    size = 1
    for part in parts:
        size += _check_node(part, sizes, where, depth=depth + 1)
        if size > MOST_VALUES:
            raise ConfigurationError(
                f"{_at(where, node)}: more than {MOST_VALUES} values, aliases included; is it a recipe?"
            )
    sizes[id(node)] = size
    return size


def _at(where: str, node: Any) -> str:
    return f"{where}, line {node.start_mark.line + 1}"
