"""Writes docs/api.md from the docstrings of the public names: ``python scripts/make_api_reference.py``."""

import inspect
from pathlib import Path
from typing import Any

import hf_vbp

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# API reference

Made by `python scripts/make_api_reference.py` from the docstrings; every name below is an attribute of `hf_vbp`.
"""


def home_of(name: str) -> Any:
    """Return the object that the package exports under ``name``."""
    return getattr(hf_vbp, name)


def section(name: str) -> str:
    """Return the Markdown of one name: its signature and its docstring."""
    value = home_of(name)
    if isinstance(value, str):
        return f"## `{name}`\n\nThe version of the package.\n"
    documented = inspect.getdoc(value) or ""
    kind = "class" if inspect.isclass(value) else "function"
    parameters = "" if kind == "class" else f"({', '.join(inspect.signature(value).parameters)})"
    lines = [f"## `{name}{parameters}`", "", f"{kind} of `{value.__module__}`", "", "```text", documented, "```", ""]
    if kind == "class":
        methods = [
            f"- `{attribute}`: {(inspect.getdoc(member) or '').splitlines()[0]}"
            for attribute, member in vars(value).items()
            if not attribute.startswith("_")
            and inspect.getdoc(member)
            and not isinstance(member, str | int | float | tuple)
        ]
        lines += [*methods, ""] if methods else []
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    names = sorted(hf_vbp.__all__, key=str.lower)
    return HEAD + "\n" + "\n".join(section(name) for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
