"""The public names: importable, light to import, and documented."""

import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import hf_vbp
from hf_vbp import errors
from hf_vbp.config.registry import CRITERIA


def test_all_lists_the_exported_names() -> None:
    for name in hf_vbp.__all__:
        assert getattr(hf_vbp, name) is not None
    assert set(hf_vbp.__all__) <= set(dir(hf_vbp))
    with pytest.raises(AttributeError, match="nothing"):
        _ = hf_vbp.nothing


def test_every_public_name_has_a_docstring_and_annotations() -> None:
    for name in set(hf_vbp.__all__) - {"__version__"}:
        value = getattr(hf_vbp, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            parameters = inspect.signature(value).parameters.values()
            assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters), name


@pytest.mark.parametrize("code", ["import hf_vbp", "import hf_vbp.cli.app; hf_vbp.cli.app.build()"])
def test_imports_nothing_heavy(code: str) -> None:
    heavy = ("torch", "transformers", "datasets", "accelerate", "evaluate", "numpy")
    script = f"{code}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_every_error_derives_from_the_base_and_from_a_builtin() -> None:
    children = [value for value in vars(errors).values() if isinstance(value, type) and value is not errors.HfVbpError]
    assert len(children) > 5
    for child in children:
        assert issubclass(child, errors.HfVbpError)
        assert any(
            base.__module__ == "builtins" for base in child.__mro__ if base not in (Exception, BaseException, object)
        )


def test_the_api_reference_matches_the_docstrings() -> None:
    root = Path(__file__).parents[1]
    script = runpy.run_path(str(root / "scripts" / "make_api_reference.py"))
    assert (root / "docs" / "api.md").read_text(encoding="utf-8") == script["page"](), "run the script"


def test_the_api_reference_shows_types_and_defaults_of_methods_and_extensions() -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    for shown in (
        "ratio: float | None = None,",  # VBPConfig
        "ridge: float = 0.001,",  # an option of a criterion
        "precision: float = 0.03,",  # LatencyOptions
        "pairs: tuple[tuple[str, str], ...] = (('mlp.fc1', 'mlp.fc2'), ('intermediate.dense', 'output.dense')),",
        "- `save(path: str | Path) -> Path`: ",
        "- `requires: Requirements`: ",
    ):
        assert shown in page, shown
    for criterion in map(CRITERIA.get, CRITERIA):
        if criterion.__module__.startswith("hf_vbp."):
            assert f"### `{criterion.__name__}`" in page
