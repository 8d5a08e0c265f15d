"""One configuration for every step: round trips, validation, presets."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from hf_vbp.config.budget import Budget
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError
from tests.workflow.strategies import configs


@given(config=configs())
@settings(deadline=None, max_examples=60)
def test_a_config_survives_its_json_form(config: VBPConfig) -> None:
    assert VBPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(config=configs(with_budget=False))
@settings(deadline=None, max_examples=20)
def test_a_config_without_a_budget_is_valid_and_survives_its_json_form(config: VBPConfig) -> None:
    assert not config.has_budget
    assert VBPConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigurationError, match="needs a budget: give VBPConfig one of ratio, target_parameters"):
        _ = config.budget
    assert config.with_budget(target_macs=0.8).budget == Budget("macs", 0.8)


def test_the_json_form_holds_no_budget_that_was_not_given() -> None:
    assert VBPConfig(target_macs=0.7).to_dict() == {
        "target_macs": 0.7,
        "criterion": "obs",
        "compensation": "linear",
        "scope": "global",
        "minimum_width": 1,
        "round_to": 1,
    }


def test_another_budget_replaces_the_first() -> None:
    changed = VBPConfig(ratio=0.5, round_to=8).with_budget(target_parameters=0.6)
    assert changed == VBPConfig(target_parameters=0.6, round_to=8)


def test_a_preset_can_be_named_in_the_dict_form() -> None:
    described = {"preset": "paper", "ratio": 0.5, "round_to": 4}
    assert VBPConfig.from_dict(described) == VBPConfig.preset("paper", ratio=0.5, round_to=4)


def test_the_paper_is_one_preset() -> None:
    assert VBPConfig.preset("paper", ratio=0.5) == VBPConfig(
        ratio=0.5, criterion="variance", compensation="mean", scope="global", levers=("mlp",)
    )
    with pytest.raises(ConfigurationError, match="Unknown preset 'papers'; expected one of best, paper"):
        VBPConfig.preset("papers", ratio=0.5)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"ratio": 0.5, "target_macs": 0.5},
            ConfigurationError,
            "one budget of .*; got ratio, target_macs",
        ),
        ({"ratio": 1.2}, BudgetError, "neurons to remove must be between 0 and 1, got 1.2"),
        ({"target_macs": "half"}, BudgetError, "MACs to keep must be between 0 and 1, got 'half'"),
        ({"criterion": "nothing"}, ConfigurationError, "Unknown criterion 'nothing'; expected one of mag"),
        ({"criterion": 3}, ConfigurationError, "criterion must be a name, got 3; expected one of mag"),
        ({"criterion": ["obs"]}, ConfigurationError, "criterion must be a name, got a list; expected one of mag"),
        ({"scope": None}, ConfigurationError, "scope must be a name, got None; expected one of global, layer"),
        (
            {"compensation": "nothing"},
            ConfigurationError,
            "Unknown compensation 'nothing'; expected .*mean",
        ),
        ({"scope": "nothing"}, ConfigurationError, "Unknown scope 'nothing'; expected one of global, layer"),
        ({"minimum_width": -1}, ConfigurationError, "minimum_width .* whole number of at least 0, got -1"),
        ({"minimum_width": True}, ConfigurationError, "minimum_width .* whole number of at least 0, got True"),
        ({"merge_tokens": 10**400}, ConfigurationError, "merge_tokens must be a whole number from 0 to 1,000,000"),
        ({"round_to": 0}, ConfigurationError, "round_to .* whole number of at least 1, got 0"),
        ({"round_to": 2.0}, ConfigurationError, "round_to must be a whole number of at least 1, got 2.0"),
        ({"criterion_options": "x"}, ConfigurationError, "criterion_options must map .*, got 'x'"),
        (
            {"criterion_options": {"rigde": 1}},
            ConfigurationError,
            "option 'rigde' of .*'obs'; expected metric, ridge",
        ),
        ({"criterion_options": {3: 1}}, ConfigurationError, "Unknown option 3 of criterion 'obs'"),
        (
            {"criterion": "variance", "criterion_options": {"ridge": 1}},
            ConfigurationError,
            "Unknown option 'ridge' of criterion 'variance'; it has no options",
        ),
        (
            {"criterion_options": {"ridge": "0.1"}},
            ConfigurationError,
            "ridge must be a number .*, got '0.1'",
        ),
        (
            {"criterion_options": {"metric": ["x"]}},
            ConfigurationError,
            "metric must be a name, got a list; expected one",
        ),
        (
            {"criterion": "random", "criterion_options": {"seed": -1}},
            ConfigurationError,
            "seed of criterion 'random' must be a whole number from 0 to",
        ),
        (
            {"compensation_options": {"regularization": "lasso"}},
            ConfigurationError,
            "Unknown regularization 'lasso'; expected one of auto, ridge, .*held-out",
        ),
        (
            {"compensation": "mean", "compensation_options": {"ridge": 0.1}},
            ConfigurationError,
            "Unknown option 'ridge' of compensation 'mean'; it has no options",
        ),
        (
            {"compensation_options": {"ridge": -0.1}},
            ConfigurationError,
            "'ridge' must be 0 or more, got -0.1",
        ),
    ],
)
def test_invalid_values_are_refused_when_the_config_is_made(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        VBPConfig(**fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ration": 0.5}, "Unknown field 'ration' of VBPConfig; expected ratio, target_parameters"),
        ({"preset": "papers"}, "Unknown preset 'papers'"),
        ([("ratio", 0.5)], "Expected the fields of a VBPConfig, got list"),
    ],
)
def test_invalid_dicts_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        VBPConfig.from_dict(values)


@pytest.mark.parametrize(
    ("config", "requires"),
    [
        (VBPConfig(), Requirements(covariances=True, output_metric=True, token_weights=True)),
        (VBPConfig.preset("paper"), Requirements(bias=True)),
        (VBPConfig(criterion="snip", compensation="none"), Requirements(saliency=True)),
        (
            VBPConfig(criterion_options={"metric": "identity"}, compensation="none"),
            Requirements(covariances=True),
        ),
        (
            VBPConfig(criterion="variance", compensation_options={"regularization": "held-out"}),
            Requirements(covariances=True, halves=True),
        ),
    ],
)
def test_requirements_follow_from_criterion_compensation_and_options(
    config: VBPConfig, requires: Requirements
) -> None:
    assert config.requires == requires


def test_requirements_combine() -> None:
    one, other = Requirements(covariances=True, halves=True), Requirements(halves=True, bias=True)
    assert one | other == Requirements(covariances=True, halves=True, bias=True)
    assert one - other == Requirements(covariances=True)
    assert (one - one).names() == []
    assert not one - one
    assert other.names() == ["halves", "bias"]
