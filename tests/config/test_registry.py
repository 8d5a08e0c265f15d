"""Criteria and compensations by name: registration, and entry points of other distributions."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.compensation.base import register_compensation
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.criteria.base import Criterion, register_criterion
from hf_vbp.criteria.variance import Variance
from hf_vbp.errors import ConfigurationError
from tests.config.distributions import install


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    for registry in (CRITERIA, COMPENSATIONS):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def test_a_class_without_a_name_or_fields_cannot_be_registered() -> None:
    class Plain(Criterion):
        name = "plain"

        def rank(self, statistics: Any, weights: Any) -> Any:
            return []

    @dataclass(frozen=True)
    class Nameless(Criterion):
        def rank(self, statistics: Any, weights: Any) -> Any:
            return []

    for cls in (Plain, Nameless):
        with pytest.raises(ConfigurationError, match=f"{cls.__name__} cannot be registered as a criterion"):
            register_criterion(cls)


def test_a_class_that_lacks_its_method_or_its_base_cannot_be_registered() -> None:
    @dataclass(frozen=True)
    class Unfinished(Criterion):
        name = "unfinished"

    @dataclass(frozen=True)
    class Baseless:
        name = "baseless"

    with pytest.raises(ConfigurationError, match=r"Unfinished cannot be registered .*: it does not define rank\."):
        register_criterion(Unfinished)
    with pytest.raises(ConfigurationError, match=r"Baseless cannot .* as a criterion: .* derives from Criterion\."):
        register_criterion(Baseless)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match=r"Variance cannot .* as a compensation: .* from Compensation\."):
        register_compensation(Variance)  # type: ignore[type-var]


def test_errors_of_a_users_class_name_the_options() -> None:
    @register_criterion
    @dataclass(frozen=True)
    class Picky(Criterion):
        name = "picky"
        level: int = 1

        def __post_init__(self) -> None:
            if self.level < 0:
                raise ValueError("level is negative")

        def rank(self, statistics: Any, weights: Any) -> Any:
            return []

    assert CRITERIA.create("picky", {"level": 2}).options == {"level": 2}
    with pytest.raises(ConfigurationError, match=r"Invalid options level=-1 of criterion 'picky': level is neg"):
        CRITERIA.create("picky", {"level": -1})
    with pytest.raises(ConfigurationError, match=r"Invalid options .* of criterion 'picky': '<' not supported"):
        CRITERIA.create("picky", {"level": "high"})


def test_other_errors_of_a_users_class_name_it() -> None:
    @register_criterion
    @dataclass(frozen=True)
    class Careless(Criterion):
        name = "careless"
        needs: str = "nothing"

        def __post_init__(self) -> None:
            if self.needs == "made":
                raise KeyError("x")

        @property
        def requires(self) -> Any:
            return {"text": "text"}[self.needs]

        def rank(self, statistics: Any, weights: Any) -> Any:
            return []

    for needs in ("made", "nothing"):
        with pytest.raises(
            ConfigurationError, match=r"criterion 'careless' raised KeyError: '\w+'\. .*not part of hf_vbp"
        ):
            CRITERIA.create("careless", {"needs": needs})
    with pytest.raises(ConfigurationError, match=r"`requires` of criterion 'careless' must be .*, got 'text'"):
        CRITERIA.create("careless", {"needs": "text"})


METHOD = """
from dataclasses import dataclass
from hf_vbp.criteria.base import Criterion, Ranking, register_criterion

@register_criterion
@dataclass(frozen=True)
class Installed(Criterion):
    name = "installed"

    def rank(self, statistics, weights):
        return [Ranking.from_scores(site.moments.mean) for site in statistics]
"""


@pytest.mark.parametrize("value", ["installed_method", "installed_method:Installed"])
def test_a_method_of_another_distribution_is_imported_when_it_is_used(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "hf_vbp.criteria", installed=value, installed_method=METHOD)
    assert "installed" in CRITERIA
    assert "installed" in CRITERIA.names()
    assert "installed_method" not in sys.modules
    assert CRITERIA.create("installed").name == "installed"
    assert "installed_method" in sys.modules


@pytest.mark.parametrize(
    ("value", "source", "message"),
    [
        ("absent_method", "", "from the distribution 'fake', cannot be imported: No module named 'absent_method'"),
        ("empty_method:Installed", "", "cannot be imported: .*no attribute 'Installed'"),
        ("empty_method", "", "registers no criterion of this name"),
        (
            "empty_method",
            "1 / 0",
            r"The import of 'installed' .* 'fake', raised ZeroDivisionError: division by zero\.",
        ),
    ],
)
def test_a_broken_distribution_is_reported_when_its_method_is_used(
    value: str, source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "hf_vbp.criteria", installed=value, empty_method=source)
    assert CRITERIA.create("variance").name == "variance"
    with pytest.raises(ConfigurationError, match=message):
        CRITERIA.create("installed")


def test_two_distributions_with_the_same_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fake", "other"):
        options: dict[str, Any] = {"distribution": name, "installed": f"{name}_module"}
        install(tmp_path / name, monkeypatch, "hf_vbp.criteria", **options)
    with pytest.raises(ConfigurationError, match=r"'fake' and the distribution 'other' both provide 'installed'"):
        CRITERIA.get("installed")
