"""Writes docs/api.md from the docstrings of the public names: ``python scripts/make_api_reference.py``."""

import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hf_vbp

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# API reference

Made by `python scripts/make_api_reference.py` from signatures and docstrings. Every name of the first part is an
attribute of `hf_vbp`. The second part has the options of the methods and the names that
[extensions](extending.md) use.
"""
PARTS = {
    "Criteria": ["criteria:Obs", "criteria:Variance", "criteria:WeightedVariance", "criteria:Magnitude",
                 "criteria:Snip", "criteria:Random"],
    "Compensations": ["compensation:Linear", "compensation:Mean", "compensation:NoCompensation"],
    "Extensions": ["criteria:Ranking", "criteria:SiteWeights", "compensation:Compensated",
                   "config.requirements:Requirements", "statistics.site_statistics:SiteStatistics",
                   "statistics.moments:Moments", "adapters:Adapter", "adapters:LinearPairAdapter", "adapters:MLPSite",
                 "adapters:TableAdapter", "adapters:Layout",
                   "evaluation.metrics:PerImageMetric"],
    "Evaluation": ["evaluation.requests:Measures", "evaluation.task_metrics:TaskMetric",
                   "evaluation.zero_shot:ZeroShot", "evaluation.figures:Evaluation", "evaluation.figures:Figure"],
    "Other": ["costs.latency:LatencyOptions", "costs.latency:measure_latency", "hub.publish_callback:PublishCallback",
              "pruning.damage:predict_damage"],
}  # fmt: skip


def home_of(name: str) -> Any:
    """Return the object that the package exports under ``name``."""
    return getattr(hf_vbp, name)


def text_of(annotation: Any) -> str:
    """Return a type as it is written in code, without the names of modules."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def signature_of(value: Any) -> str:
    """Return the parameters with types and defaults, one per line where there are several."""
    signature = inspect.signature(value)
    parts = spelled(parameter for parameter in signature.parameters.values() if is_own(value, parameter.name))
    inner = "".join(f"\n    {part}," for part in parts)
    arrow = "" if inspect.isclass(value) else returned_type(signature)
    return f"({inner}\n){arrow}" if parts else f"(){arrow}"


def spelled(parameters: Iterable[inspect.Parameter]) -> list[str]:
    """Return each parameter as it is written in code, with its type and default."""
    parts, star = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        typed = "" if parameter.annotation is parameter.empty else f": {text_of(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {default_of(parameter.default)}"
        parts.append(f"{prefix}{parameter.name}{typed}{default}")
    return parts


def returned_type(signature: inspect.Signature) -> str:
    """Return the arrow and the type of the result, or nothing where there is no result."""
    returned = signature.return_annotation
    return "" if returned in (signature.empty, None, "None") else f" -> {text_of(returned)}"


def is_own(value: Any, name: str) -> bool:
    """Return whether a parameter is declared in this package; fields that a class inherits from others are not."""
    foreign = [base for base in getattr(value, "__mro__", ()) if not base.__module__.startswith("hf_vbp")]
    own = [base for base in getattr(value, "__mro__", ()) if base.__module__.startswith("hf_vbp")]
    declared = any(name in vars(base).get("__annotations__", {}) for base in own)
    return declared or not any(name in vars(base).get("__annotations__", {}) for base in foreign)


def default_of(default: Any) -> str:
    """Return a default; one that is a factory or an object without a literal is shown as dots."""
    text = repr(default)
    return "..." if text.startswith("<") else text


def has_signature(value: Any) -> bool:
    """Return whether the parameters are written in this package, not in a base class of another one."""
    if not inspect.isclass(value):
        return True
    return not issubclass(value, BaseException) and (is_dataclass(value) or "__init__" in vars(value))


def section(name: str) -> str:
    """Return the Markdown of one name: its signature and its docstring."""
    value = home_of(name)
    if isinstance(value, str):
        return f"## `{name}`\n\nThe version of the package.\n"
    return described(name, value, "##")


def described(name: str, value: Any, heading: str) -> str:
    """Return the Markdown of one class or function."""
    documented = inspect.getdoc(value) or ""
    kind = "class" if inspect.isclass(value) else "function"
    lines = [f"{heading} `{name}`", "", f"{kind} of `{value.__module__}`", ""]
    if has_signature(value):
        lines += ["```text", f"{name}{signature_of(value)}", "```", ""]
    lines += ["```text", documented, "```", ""]
    if kind == "class":
        methods = [
            f"- `{attribute}{member_signature(member)}`: {(inspect.getdoc(member) or '').splitlines()[0]}"
            for attribute, member in vars(value).items()
            if not attribute.startswith("_")
            and inspect.getdoc(member)
            and not isinstance(member, str | int | float | tuple)
        ]
        lines += [*methods, ""] if methods else []
    return "\n".join(lines)


def member_signature(member: Any) -> str:
    """Return the parameters of a method with types and defaults in one line, or the type of a property."""
    if isinstance(member, property | cached_property):
        signature = inspect.signature(member.func if isinstance(member, cached_property) else member.fget)
        return returned_type(signature).replace(" ->", ":")
    function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    if not inspect.isfunction(function):
        return ""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[0 if isinstance(member, staticmethod) else 1 :]
    return f"({', '.join(spelled(parameters))}){returned_type(signature)}"


def part(title: str, names: list[str]) -> str:
    """Return the Markdown of one group of names of the subpackages."""
    sections = []
    for entry in names:
        module, name = entry.split(":")
        sections.append(described(name, getattr(importlib.import_module(f"hf_vbp.{module}"), name), "###"))
    return f"## {title}\n\n" + "\n".join(sections)


def page() -> str:
    """Return the whole page."""
    names = sorted(hf_vbp.__all__, key=str.lower)
    second = "\n".join(part(title, entries) for title, entries in PARTS.items())
    return HEAD + "\n" + "\n".join(section(name) for name in names) + "\n" + second


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
