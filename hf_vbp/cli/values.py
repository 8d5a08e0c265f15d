"""Values of options that are more than one plain value."""

import json
from collections.abc import Sequence
from typing import Any

from hf_vbp.errors import ConfigurationError


def read_options(flag: str, texts: Sequence[str] | None) -> dict[str, Any] | None:
    """Read options of the form ``NAME=VALUE``; a value is JSON where it can be, else text.

    Raises:
        ConfigurationError: A text has another form, or a name is repeated.
    """
    if not texts:
        return None
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or name in values:
            raise ConfigurationError(f"{flag} takes NAME=VALUE, each name once; got {text!r}.")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def read_latency(text: str | None) -> float | str | None:
    """Return a share as a number, and a time such as ``12ms`` unchanged."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def read_multiple(text: str | None) -> int | str | None:
    """Read ``--round-to``: a whole number, or ``auto``; other texts are returned as they are, to be refused."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else text
