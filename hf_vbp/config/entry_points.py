"""Criteria, compensations and adapters that other installed distributions provide as package entry points.

An entry point is imported only when its name is used, so a broken distribution does not affect any other name.
"""

from importlib import metadata
from typing import Any

from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError


def entry_point_names(group: str) -> set[str]:
    """Return the names of all entry points of a group, without importing anything."""
    return set(metadata.entry_points(group=group).names)


def load_entry_point(group: str, name: str) -> Any:
    """Import the object that an entry point refers to, or return None where there is no such entry point.

    Args:
        group: Group of the entry point, for instance ``"hf_vbp.criteria"``.
        name: Name of the entry point.

    Raises:
        ConfigurationError: Several distributions provide the name, its module or object cannot be imported, or
            its module raised an error.
    """
    found = sorted(metadata.entry_points(group=group, name=name), key=lambda entry: entry.value)
    if not found:
        return None
    if len(found) > 1:
        raise ConfigurationError(
            f"{_origin(found[0])} and {_origin(found[1])} both provide {name!r} in the entry points {group!r}. "
            "Uninstall one of them."
        )
    entry = f"{name!r} of the entry points {group!r}, from {_origin(found[0])},"
    with named_in_errors(f"The import of {entry}"):
        try:
            return found[0].load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(
                f"{entry} cannot be imported: {error}. Repair or uninstall that distribution."
            ) from error


def _origin(entry: metadata.EntryPoint) -> str:
    return f"the distribution {entry.dist.name!r}" if entry.dist else entry.value
