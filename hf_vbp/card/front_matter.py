"""The YAML metadata at the head of a card: read from foreign cards with limits, and written."""

import math
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from hf_vbp._progress import one_line
from hf_vbp.errors import ConfigurationError

LONGEST_CARD = 4 << 20
_LONGEST_METADATA = 256 << 10
_DEEPEST = 20
_LARGEST_INTEGER = 2**63 - 1
_FENCE = "---\n"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML without aliases, which can be exponentially many values, and with limited depth."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node."""
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted; write the value out")
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Safe YAML that writes a value again wherever it is used, because the loader accepts no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an alias."""
        return True


def divide(card: str) -> tuple[str, str]:
    """Return the metadata of a card with their fences, empty where there are none, and the body after them."""
    card = card.replace("\r\n", "\n")
    if card.startswith(_FENCE) and (end := card.find("\n---\n", 3)) >= 0:
        return card[: end + 5], card[end + 5 :]
    return "", card


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Return metadata and body of an existing card.

    Raises:
        ConfigurationError: The card is too long, or its metadata are not YAML with plain values.
    """
    head, body = divide(card)
    if len(card) > LONGEST_CARD or len(head) > _LONGEST_METADATA:
        raise ConfigurationError(
            f"The present README.md has {len(card):,d} characters, {len(head):,d} of them metadata; expected at most "
            f"{LONGEST_CARD:,d} and {_LONGEST_METADATA:,d}. Shorten it."
        )
    try:
        data = yaml.load(head.removeprefix(_FENCE).removesuffix(_FENCE), Loader=_Loader) if head else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The metadata of the present README.md are not YAML ({one_line(error)}); correct them."
        ) from error
    if not isinstance(data or {}, dict) or not all(isinstance(key, str) for key in data or {}):
        raise ConfigurationError("The metadata of the present README.md do not map names to values; correct them.")
    check_plain(data or {})
    return data or {}, body


def check_plain(value: Any, where: str = "") -> None:
    """Refuse values that are not plain texts and finite numbers.

    Raises:
        ConfigurationError: There is such a value; the message names its key.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, int):
                check_plain(key, where)
            elif not isinstance(key, str):
                raise ConfigurationError(f"The card's {where} has a key that is a {type(key).__name__}, not a text.")
            check_plain(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            check_plain(item, where)
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ConfigurationError(
            f"The card's {where} is a {type(value).__name__}; metadata holds plain numbers and texts only."
        )
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"The card's {where} is not a finite number.")
    elif isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise ConfigurationError(f"The card's {where} is an integer beyond {_LARGEST_INTEGER}.")


def to_yaml(metadata: dict[str, Any]) -> str:
    """Return metadata as YAML, in their order, without fences."""
    text: str = yaml.dump(metadata, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text.strip()
