from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.workflow.finetune.fields import merge, read_override
from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe

SMALLEST: dict[str, Any] = {"model": "m", "output": "out", "data": {"train": {"source": "sample"}}}


def with_(**changes: Any) -> dict[str, Any]:
    return merge(SMALLEST, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ouput": "x"}, "unknown field ouput: did you mean output"),
        ({"training": {"lerning_rate": 1}}, r"unknown field training\.lerning_rate: did you mean learning_rate"),
        ({"training": {"hard_weight": 1}}, "did you mean hard_label_weight"),
        ({"data": {"train": {"source": "a", "spilt": "b"}}}, r"data\.train\.spilt: did you mean split"),
        ({"data": {"augmentation": "papr"}}, "augmentation is 'papr'; expected one of paper, plain, none"),
        ({"data": {"evaluation": {"split": "test"}}}, "data.evaluation has no source"),
        ({"data": {"keep_images": "yes please"}}, "keep_images is 'yes please'; expected true or false"),
        ({"training": {"num_train_epochs": "ten"}}, "num_train_epochs is 'ten'; expected a number"),
        ({"training": {"seed": 1.5}}, r"seed is 1\.5; expected a whole number"),
        ({"training": "fast"}, "training is 'fast'; expected fields below it"),
        ({"prune": {"model": "m", "ratio": 0.5, "data": {"source": "sample"}}}, "this one has both"),
        ({"model": None}, "this one has neither"),
        ({"output": None}, "no output"),
        ({"output": 3}, "output is 3; expected a text"),
        ({"data": {"train": None}}, "has no data.train"),
        ({"data": {"train": {"batch_size": 8}}}, "no effect: set training.per_device_train_batch_size"),
    ],
)
def test_an_invalid_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_recipe(with_(**changes))


def prune_section(**changes: Any) -> dict[str, Any]:
    section = {"model": "m", "ratio": 0.5, "data": {"source": "sample"}, **changes}
    return with_(model=None, prune={name: value for name, value in section.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ratoi": 0.5}, ConfigurationError, r"unknown field prune\.ratoi: did you mean ratio"),
        ({"data": None}, ConfigurationError, "neither data nor statistics"),
        ({"model": None}, ConfigurationError, "prune has no model"),
        ({"criterion": "varience"}, ConfigurationError, "variance"),
        ({"ratio": 1.5}, BudgetError, "1.5"),
        ({"ratio": "half"}, ConfigurationError, "prune.ratio is 'half'; expected a number"),
    ],
)
def test_the_prune_section_is_validated(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_recipe(prune_section(**changes))


def test_contradicting_training_settings_are_refused() -> None:
    settings = {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "no", "use_cpu": True}
    recipe = make_recipe(with_(training=settings))
    with pytest.raises(ConfigurationError, match=r"Invalid training section.*load_best_model_at_end"):
        recipe.arguments()


def test_later_files_and_overrides_replace_earlier_fields(tmp_path: Path) -> None:
    first, second = tmp_path / "deit-tiny" / "recipe.yaml", tmp_path / "folder.yaml"
    first.parent.mkdir()
    first.write_text(yaml.safe_dump(with_(training={"seed": 1, "learning_rate": 0.5})), encoding="utf-8")
    second.write_text("data:\n  train:\n    source: pictures\n", encoding="utf-8")
    recipe = load_recipe([first, second, "training.seed=3", "data.evaluation.source=sample", "teacher=none"])
    assert (recipe.name, recipe.teacher) == ("deit-tiny", "none")
    assert recipe.data.train.source == "pictures"
    assert recipe.data.evaluation is not None
    assert recipe.training == {"seed": 3, "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1e-4", 1e-4),
        ("a=1.5E-5", 1.5e-5),
        ("a=true", True),
        ("a=x=y", "x=y"),
        ("a=", None),
        ("a=1", 1),
        ("a=no", "no"),
        ("a=on", "on"),
    ],
)
def test_values_are_read_as_in_yaml_1_2(text: str, value: Any) -> None:
    assert read_override(text) == {"a": value}
    assert type(read_override(text)["a"]) is type(value)


@pytest.mark.parametrize("text", ["seed", "=3", "training..seed=1", "1a=2", "a={"])
def test_an_invalid_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_override(text)


@pytest.mark.parametrize(("content", "message"), [("a: [1", r"line \d"), ("just text", "has no fields")])
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load_recipe([tmp_path / "bad.yaml"])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_recipe([tmp_path / "missing.yaml"])


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    for tree in (with_(training={"seed": 4}, data={"evaluation": {"source": "e", "limit": 3}}), prune_section()):
        recipe = make_recipe(tree)
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        again = load_recipe([tmp_path / "recipe.yaml"])
        assert (again.data, again.prune, again.model) == (recipe.data, recipe.prune, recipe.model)
        assert again.to_yaml() == recipe.to_yaml()
        assert again.training.items() >= recipe.training.items()


RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*/recipe.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_shipped_recipe_is_valid_and_has_a_readme(path: Path) -> None:
    recipe = load_recipe([path, "training.use_cpu=true"])
    args = recipe.arguments()
    assert args.lr_scheduler_type == "cosine"
    if path.parent.name.startswith(("deit", "vit-base")):
        per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        assert (args.learning_rate, args.weight_decay, per_step) == (1.5e-5, 0.01, 32)
        assert (args.num_train_epochs, recipe.data.augmentation) == (10, "paper")
    text = (path.parent / "README.md").read_text(encoding="utf-8")
    for heading in ("needs", "costs", "gives"):
        assert heading in text.casefold()


def test_all_expected_recipes_exist() -> None:
    expected = {"deit-tiny", "deit-small", "deit-base", "vit-base", "sample", "vit-cifar10", "prune-then-finetune"}
    assert {path.parent.name for path in RECIPES} == expected
