"""The extension points: criteria and compensations by name.

A method is known when the module that registers it was imported. The built-in methods are imported on first use, by
the name of their package, because this package comes before theirs. Methods of other distributions are found through
package entry points of the groups ``hf_vbp.criteria`` and ``hf_vbp.compensation``: the name of the entry point is the
name of the method, its value the module that registers it, or the registered class.
"""

import importlib
import inspect
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

from hf_vbp._progress import one_line, shown
from hf_vbp.config.entry_points import entry_point_names, load_entry_point
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError, HfVbpError


class Method(ABC):
    """A method that is chosen by name: a frozen dataclass whose fields are its options.

    Attributes:
        name: The name that configurations, plans and the command line use.
    """

    name: str

    @property
    def requires(self) -> Requirements:
        """The requirements of the method with these options; none unless overridden."""
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
            kind: Name of the kind of its entries in messages, for instance ``"criterion"``.
            builtin: The package that registers the built-in entries; also the group of the package entry points.
        """
        self.kind = kind
        self._builtin = builtin
        self._classes: dict[str, type[MethodT]] = {}

    def register(self, cls: type[MethodT], base: type[Method] = Method) -> None:
        """Make a class known under its ``name``.

        Args:
            cls: The class.
            base: The class that it must derive from.

        Raises:
            ConfigurationError: The class has no name, is not a dataclass or no subclass of ``base``, or leaves a
                method of it undefined; or another class has the name.
        """
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ConfigurationError(
                f"{getattr(cls, '__qualname__', shown(cls))} cannot be registered as a {self.kind}: expected a class "
                f"that derives from {base.__name__}."
            )
        if inspect.isabstract(cls):
            raise ConfigurationError(
                f"{cls.__qualname__} cannot be registered as a {self.kind}: it does not define "
                f"{', '.join(sorted(cls.__abstractmethods__))}."
            )
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name or not is_dataclass(cls):
            raise ConfigurationError(
                f"{cls.__qualname__} cannot be registered as a {self.kind}: expected a dataclass with a class "
                'attribute `name`, for instance `name = "mine"`, decorated with @dataclass(frozen=True) first.'
            )
        if name in self._classes and not _is_reload(self._classes[name], cls):
            raise ConfigurationError(f"There is a {self.kind} {name!r} already; choose another name.")
        self._classes[name] = cls

    def names(self) -> list[str]:
        """Return the names of all methods, sorted; those of other distributions without importing them."""
        self._load_builtin()
        return sorted(self._classes.keys() | entry_point_names(self._builtin))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self.names()

    def get(self, name: str) -> type[MethodT]:
        """Return the class registered under ``name``.

        Raises:
            ConfigurationError: There is none; the message lists the names. Or the distribution that provides it is
                broken.
        """
        self._load_builtin()
        _check_name(self.kind, name, self)
        if name not in self._classes:
            self._load_installed(name)
        if name not in self._classes:
            raise ConfigurationError(f"Unknown {self.kind} {shown(name)}; expected one of {', '.join(self.names())}.")
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
        unknown = [option for option in given if option not in known]
        if unknown:
            expected = f"expected {', '.join(known)}" if known else "it has no options"
            raise ConfigurationError(f"Unknown option {shown(unknown[0])} of {self.kind} {name!r}; {expected}.")
        with named_in_errors(f"{self.kind} {name!r}", cls):
            method = _made(cls, given, f"{self.kind} {name!r}")
            requires = method.requires
        if not isinstance(requires, Requirements):
            raise ConfigurationError(
                f"`requires` of {self.kind} {name!r} must be a property with Requirements, got {shown(requires)}."
            )
        return method

    def _load_builtin(self) -> None:
        importlib.import_module(self._builtin)

    def _load_installed(self, name: str) -> None:
        if load_entry_point(self._builtin, name) is not None and name not in self._classes:
            raise ConfigurationError(
                f"The entry point {name!r} of the group {self._builtin!r} registers no {self.kind} of this name; "
                f"its module must register a class with `name = {name!r}`."
            )


def _made(cls: type[MethodT], options: Mapping[str, Any], method: str) -> MethodT:
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        if isinstance(error, HfVbpError):
            raise
        values = ", ".join(f"{option}={shown(value)}" for option, value in options.items())
        raise ConfigurationError(f"Invalid options {values} of {method}: {one_line(error)}") from error


def _is_reload(old: type[Method], new: type[Method]) -> bool:
    # A module that is imported again, in a notebook for instance, replaces its own classes.
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


CRITERIA: Registry[Any] = Registry("criterion", "hf_vbp.criteria")
"""The criteria; the classes derive from :class:`hf_vbp.criteria.base.Criterion`."""

COMPENSATIONS: Registry[Any] = Registry("compensation", "hf_vbp.compensation")
"""The compensations; the classes derive from :class:`hf_vbp.compensation.base.Compensation`."""


def _check_name(kind: str, value: Any, choices: Iterable[Any]) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{kind} must be a name, got {shown(value)}; expected one of {', '.join(map(str, choices))}."
        )


def check_choice(kind: str, value: Any, choices: Any) -> Any:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigurationError: It is not; the message lists the choices.
    """
    _check_name(kind, value, choices)
    if value not in choices:
        raise ConfigurationError(f"Unknown {kind} {shown(value)}; expected one of {', '.join(map(str, choices))}.")
    return value
