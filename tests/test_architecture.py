"""The order of the packages: a package imports only packages before it, and no modules import each other in a circle.

All imports count, those inside functions and under ``TYPE_CHECKING`` too, and names of modules in a file that calls
``import_module``. The order is explained in
docs/architecture.md.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_vbp"

ORDER = (
    "errors",
    "_version",
    "_progress",
    "_packages",
    "distributed",
    "files",
    "modeling",
    "config",
    "results",
    "sample",
    "inputs",
    "adapters",
    "output_distance",
    "statistics",
    "calibration",
    "criteria",
    "compensation",
    "token_merging",
    "costs",
    "pruning",
    "checkpoint",
    "data",
    "evaluation",
    "distillation",
    "export",
    "card",
    "hub",
    "workflow",
    "ui",
    "cli",
)
# They offer the public names and the command line, and may import everything.
ENTRANCES = ("__init__", "__main__")

# The built-in methods register themselves when they are used first: see the end of the packages in architecture.md.
BY_NAME = {("hf_vbp.config.registry", "hf_vbp.criteria"), ("hf_vbp.config.registry", "hf_vbp.compensation")}

Imports = dict[str, set[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """The files of a package by module name; a folder has the name of its ``__init__.py``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported_names(path: Path, module: str) -> Iterator[str]:
    """The dotted names that a file imports, at any depth: ``a.b`` and, for ``from a import b``, ``a.b`` too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    called = (node.func for node in nodes if isinstance(node, ast.Call))
    by_name = any("import_module" in (getattr(call, "attr", ""), getattr(call, "id", "")) for call in called)
    for node in nodes:
        if by_name and isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(package: Path) -> Imports:
    """For each module the modules of the same package that it imports."""
    modules = modules_of(package)

    def module_of(name: str) -> str | None:
        # `from a.b import c` imports the module a.b.c where there is one, otherwise an object of a.b.
        return name if name in modules else next((p for p in [name.rpartition(".")[0]] if p in modules), None)

    return {
        module: {found for name in imported_names(path, module) if (found := module_of(name)) not in (None, module)}
        for module, path in modules.items()
    }


def package_of(module: str) -> str:
    """The package, or single module, below the root that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def against_the_order(imports: Imports) -> list[str]:
    """The imports of a package by one that comes before it."""
    position = {name: index for index, name in enumerate((*ORDER, *ENTRANCES))}
    return sorted(
        f"{module} imports {imported}"
        for module, found in imports.items()
        for imported in found
        if position[package_of(imported)] > position[package_of(module)]
    )


def cycles(imports: Imports) -> list[list[str]]:
    """The strongly connected components of more than one module, by Kosaraju's two passes."""
    reverse: Imports = {module: set() for module in imports}
    for module, found in imports.items():
        for imported in found:
            reverse[imported].add(module)
    finished: list[str] = []
    seen: set[str] = set()
    for module in imports:
        finished += visit(module, imports, seen)
    seen.clear()
    components = [visit(module, reverse, seen) for module in reversed(finished)]
    return sorted(sorted(component) for component in components if len(component) > 1)


def visit(start: str, edges: Imports, seen: set[str]) -> list[str]:
    """The modules reachable from ``start`` that were not seen, each after those that it leads to."""
    if start in seen:
        return []
    seen.add(start)
    return [module for target in sorted(edges[start]) for module in visit(target, edges, seen)] + [start]


@pytest.fixture(scope="module")
def imports() -> Imports:
    found = imports_of(PACKAGE)
    for module, imported in BY_NAME:
        # An exception that is no longer needed must be removed from the list.
        found[module].remove(imported)
    return found


def test_every_package_has_a_place_in_the_order(imports: Imports) -> None:
    unknown = {package_of(module) for module in imports} - {*ORDER, *ENTRANCES}
    assert not unknown, f"add {', '.join(sorted(unknown))} to ORDER and to docs/architecture.md"


def test_packages_import_only_packages_before_them(imports: Imports) -> None:
    found = against_the_order(imports)
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle(imports: Imports) -> None:
    found = cycles(imports)
    assert not found, "\n".join(" <-> ".join(component) for component in found)


def test_the_checks_find_violations(tmp_path: Path) -> None:
    files = {
        "hf_vbp/__init__.py": "from .workflow.run import go",
        "hf_vbp/workflow/__init__.py": "",
        "hf_vbp/workflow/run.py": "from hf_vbp.config import limits\nfrom hf_vbp.errors import Wrong",
        "hf_vbp/config/__init__.py": "",
        "hf_vbp/config/limits.py": "def f():\n    import hf_vbp.workflow.run",
        "hf_vbp/config/budget.py": (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..statistics.moments import Moments"
        ),
        "hf_vbp/statistics/__init__.py": "",
        "hf_vbp/statistics/moments.py": "from . import table",
        "hf_vbp/statistics/table.py": "import hf_vbp.statistics.moments",
        "hf_vbp/errors.py": "import os",
        "hf_vbp/files/__init__.py": "",
        "hf_vbp/files/by_name.py": "import importlib\nNAME = 'hf_vbp.config.limits'\nimportlib.import_module(NAME)",
        "hf_vbp/files/only_text.py": "NAME = 'hf_vbp.config.limits'",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    imports = imports_of(tmp_path / "hf_vbp")
    assert imports["hf_vbp"] == {"hf_vbp.workflow.run"}
    assert against_the_order(imports) == [
        "hf_vbp.config.budget imports hf_vbp.statistics.moments",
        "hf_vbp.config.limits imports hf_vbp.workflow.run",
        "hf_vbp.files.by_name imports hf_vbp.config.limits",
    ]
    assert cycles(imports) == [
        ["hf_vbp.config.limits", "hf_vbp.workflow.run"],
        ["hf_vbp.statistics.moments", "hf_vbp.statistics.table"],
    ]
