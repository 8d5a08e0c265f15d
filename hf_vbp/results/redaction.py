"""Remove secrets and local paths from texts that can be published: the command, recipes, names of images, messages."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REDACTED = "REDACTED"
# Access tokens of the Hub have 34 random characters after the prefix.
_TOKEN = re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{12,}")
_SECRET_NAME = re.compile(r"(^|[._-])(token|password|passwd|secret|credentials?|api[_-]?key|access[_-]?key)$", re.I)
# The start of an absolute path: root, home, a drive, a network share, a file URL.
_START = r"(?:file://+|~[\w.-]*[/\\]|[A-Za-z]:[/\\]|\\\\|(?<!:)//+|/(?!/))"
_ABSOLUTE = re.compile(_START)
_NOT_IN_PATHS = r"\s/\\'\"<>|:;,=()\[\]{}"
_WITHIN_TEXT = re.compile(
    rf"(?<![\w.~/\\-]){_START}(?:[^{_NOT_IN_PATHS}]+[/\\]+)*(?P<name>[^{_NOT_IN_PATHS}]*)(?P<end>[/\\]*)"
)
_ASSIGNMENT = re.compile(r"(?P<name>[\w.-]+)=(?P<value>.*)", re.S)


def without_tokens(text: str) -> str:
    """Return a text in which access tokens of the Hub are cut to their prefix."""
    return _TOKEN.sub(lambda match: f"{match[1]}...", text)


def without_home(text: str) -> str:
    """Return a text without the home directory of the user and without tokens, for messages."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(re.escape(home) + r"(?=[/\\\s'\"]|$)", "~", text)
    return without_tokens(text)


def is_local_path(text: str) -> bool:
    """Return whether a text is an absolute path or starts at the home or the current directory."""
    return bool(_ABSOLUTE.match(text)) or text in ("~", ".", "..") or text.startswith(("./", "../", ".\\", "..\\"))


def name_of_path(text: str) -> str:
    """Return the last part of a text that is an absolute path; any other text is returned unchanged."""
    if not _ABSOLUTE.match(text):
        return text
    return re.split(r"[/\\]+", text.rstrip("/\\"))[-1] or text


def without_paths(text: str) -> str:
    """Return a text in which absolute paths are replaced by their last part, and without tokens."""
    return without_tokens(_WITHIN_TEXT.sub(_last_part, text))


def _last_part(match: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[/\\]+", match[0]) if part]
    return parts[-1] if parts and (match["name"] or match["end"]) else match[0]


def redacted_command(command: str) -> str:
    """Return a command line that can be published.

    Values of options that hold secrets, such as ``training.hub_token=...``, become ``REDACTED``; absolute paths become
    the last part of the path.

    Args:
        command: The command line, quoted as for a shell.

    Example:
        >>> redacted_command("hf-vbp finetune /home/me/recipe.yaml training.hub_token=hf_abcdefghijklmnopqrst")
        'hf-vbp finetune recipe.yaml training.hub_token=REDACTED'
    """
    try:
        arguments = shlex.split(command)
    except ValueError:
        return without_paths(command)
    published, is_secret = [], False
    for argument in arguments:
        published.append(REDACTED if is_secret else _argument(argument))
        is_secret = argument.startswith("-") and bool(_SECRET_NAME.search(argument.lstrip("-")))
    return shlex.join(published)


def _argument(argument: str) -> str:
    assignment = _ASSIGNMENT.fullmatch(argument)
    if assignment is None:
        return without_paths(name_of_path(argument))
    name, value = assignment["name"], assignment["value"]
    if value and _SECRET_NAME.search(name.lstrip("-")):
        return f"{name}={REDACTED}"
    return f"{name}={without_paths(name_of_path(value))}"


def redacted(value: Any) -> Any:
    """Return a tree of settings that can be published.

    Args:
        value: Mappings, lists and scalars, for instance the fields of a recipe.

    Returns:
        The same tree, without the keys that hold secrets, and with the last part of every absolute path.
    """
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items() if not _SECRET_NAME.search(str(key))}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return without_paths(name_of_path(value)) if isinstance(value, str) else value
