"""Count the calls of functions in all modules that hold them."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest


class Calls(Counter[str]):
    """How often the wrapped functions were called, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._monkeypatch = monkeypatch

    def of_function(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Count the calls of a function in every module of the package that imported it, which must be loaded."""
        counted = self._counted(function, name or function.__name__)
        for module in [module for key, module in sys.modules.items() if key.startswith("hf_vbp.")]:
            for attribute, value in list(vars(module).items()):
                if value is function:
                    self._monkeypatch.setattr(module, attribute, counted)

    def of_method(self, cls: type, method: str, name: str) -> None:
        """Count the calls of a method or class method."""
        found = vars(cls)[method]
        if isinstance(found, classmethod):
            self._monkeypatch.setattr(cls, method, classmethod(self._counted(found.__func__, name)))
        else:
            self._monkeypatch.setattr(cls, method, self._counted(found, name))

    def _counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self[name] += 1
            return function(*args, **kwargs)

        return counted
