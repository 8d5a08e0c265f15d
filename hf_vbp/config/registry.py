"""The extension points: criteria and compensations by name.

The built-in ones are found in the same way as those of other packages: a module that registers them when it is
imported. This file is listed before them in the order of the packages and knows them by the name of their module only.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import metadata
from typing import Any, Generic, TypeVar

from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError


class Method:
    """Something that can be chosen by name: a frozen dataclass whose fields are its options.

    Attributes:
        name: The name that configurations, plans and the command line use.
    """

    name: str

    @property
    def requires(self) -> Requirements:
        """What it needs, given its options; nothing unless overridden."""
        return Requirements()

    @property
    def options(self) -> dict[str, Any]:
        """The options by name, ready for JSON."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]


MethodT = TypeVar("MethodT", bound=Method)


class Registry(Generic[MethodT]):
    """The methods of one kind, by name."""

    def __init__(self, kind: str, builtin: str) -> None:
        """Make an empty registry.

        Args:
            kind: What its entries are called in messages, for instance ``"criterion"``.
            builtin: The module that registers the built-in entries; also the group of the package entry points in
                which other distributions name modules of theirs.
        """
        self.kind = kind
        self._builtin = builtin
        self._classes: dict[str, type[MethodT]] = {}
        self._is_loaded = False

    def register(self, *, overwrite: bool = False) -> Callable[[type[MethodT]], type[MethodT]]:
        """Return the class decorator that registers a method under its ``name``.

        Args:
            overwrite: Whether to replace a method of the same name.

        Raises:
            ConfigurationError: The class has no name or is not a dataclass, or the name is taken.
        """

        def add(cls: type[MethodT]) -> type[MethodT]:
            name = getattr(cls, "name", None)
            if not isinstance(name, str) or not name or not is_dataclass(cls):
                raise ConfigurationError(
                    f"{cls.__qualname__} cannot be registered as a {self.kind}: expected a dataclass with a class "
                    'attribute `name`, for instance `name = "mine"`, decorated with @dataclass(frozen=True) first.'
                )
            if name in self._classes and not overwrite and self._classes[name].__qualname__ != cls.__qualname__:
                raise ConfigurationError(
                    f"There is a {self.kind} {name!r} already; choose another name, or pass overwrite=True."
                )
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """Return the names of all registered methods, sorted."""
        self._load()
        return sorted(self._classes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._classes

    def get(self, name: str) -> type[MethodT]:
        """Return the class registered under ``name``.

        Raises:
            ConfigurationError: There is none; the message lists the names.
        """
        self._load()
        if not isinstance(name, str) or name not in self._classes:
            raise ConfigurationError(f"Unknown {self.kind} {name!r}; expected one of {', '.join(self.names())}.")
        return self._classes[name]

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> MethodT:
        """Return the method ``name`` with these options.

        Args:
            name: A registered name.
            options: Values of its fields by name; the rest keep their defaults.

        Raises:
            ConfigurationError: The name or an option is unknown, or an option has an invalid value.
        """
        cls = self.get(name)
        given = dict(options or {})
        known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(given) - set(known))
        if unknown:
            expected = f"expected {', '.join(known)}" if known else "it takes none"
            raise ConfigurationError(f"Unknown option {unknown[0]!r} of {self.kind} {name!r}; {expected}.")
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(f"Invalid options {given!r} of {self.kind} {name!r}: {error}.") from error

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True
        importlib.import_module(self._builtin)
        for entry in metadata.entry_points(group=self._builtin):
            try:
                entry.load()
            except ImportError as error:
                raise ConfigurationError(
                    f"The {self.kind} {entry.name!r} of the installed distribution "
                    f"{entry.dist.name if entry.dist else '?'} cannot be imported: {error}. Repair or uninstall it."
                ) from error


CRITERIA: Registry[Any] = Registry("criterion", "hf_vbp.criteria")
"""What scores neurons; the classes derive from :class:`hf_vbp.criteria.base.Criterion`."""

COMPENSATIONS: Registry[Any] = Registry("compensation", "hf_vbp.compensation")
"""What adjusts the kept weights; the classes derive from :class:`hf_vbp.compensation.base.Compensation`."""


def check_choice(kind: str, value: Any, choices: Any) -> Any:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigurationError: It is not; the message lists the choices.
    """
    if value not in choices:
        raise ConfigurationError(f"Unknown {kind} {value!r}; expected one of {', '.join(map(str, choices))}.")
    return value
