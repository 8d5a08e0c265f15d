import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import BudgetError, ConfigurationError
from hf_vbp.workflow.finetune.fields import merge, read_override
from hf_vbp.workflow.finetune.options import RecipeOptions
from hf_vbp.workflow.finetune.recipe import load_recipe, make_recipe
from hf_vbp.workflow.requests import DataRequest

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
        ({"training": {"learning_rate": -1e-4}}, r"training\.learning_rate is -0\.0001; expected at least 0"),
        ({"training": {"learning_rate": float("nan")}}, r"training\.learning_rate is nan; expected a finite number"),
        ({"training": {"learning_rate": 10**400}}, r"training\.learning_rate is inf; expected a finite number"),
        ({"training": {"learning_rate": "1e-4"}}, r"training\.learning_rate is '1e-4'; expected a number"),
        ({"training": {"learning_rate": [1]}}, r"training\.learning_rate is a list; expected a number"),
        ({"training": {"per_device_train_batch_size": 0}}, "per_device_train_batch_size is 0; expected at least 1"),
        ({"training": {"per_device_train_batch_size": 8.5}}, "per_device_train_batch_size is 8.5; expected a whole"),
        ({"training": {"gradient_accumulation_steps": 0}}, "gradient_accumulation_steps is 0; expected at least 1"),
        ({"training": {"num_train_epochs": 0}}, "num_train_epochs is 0.0; expected a number above 0"),
        ({"training": {"max_steps": 0}}, "max_steps is 0; expected at least 1, or -1"),
        ({"training": {"weight_decay": -1}}, "weight_decay is -1.0; expected at least 0"),
        ({"training": {"adam_beta2": 1}}, "adam_beta2 is 1.0; expected a number from 0 to below 1"),
        ({"training": {"seed": -1}}, "seed is -1; expected a number from 0 to 4294967295"),
        ({"training": {"bf16": 1}}, "bf16 is 1; expected true or false"),
        ({"data": {"train": {"seed": -3}}}, "data.train.seed is -3; expected a number from 0"),
        ({"data": {"train": {"limit": 0}}}, "data.train.limit is 0; expected at least 1"),
        ({"data": {"train": {"source": ["a"]}}}, "data.train.source is a list; expected a text"),
        ({"data": {"evaluation": {"source": "a", "batch_size": 0}}}, "data.evaluation.batch_size is 0; expected at"),
        ({"data": {"train": {"on_bad_image": "ignore"}}}, "on_bad_image is 'ignore'; expected one of error, skip"),
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
        ({"ratio": None}, ConfigurationError, "prune has no budget: set one of ratio, target_parameters"),
        ({"target_macs": 0.5}, ConfigurationError, "Give one budget"),
        ({"preset": "papers"}, ConfigurationError, "Unknown preset 'papers'"),
        ({"preset": 3}, ConfigurationError, "prune.preset is 3; expected a text"),
        ({"criterion_options": {"x": 1}}, ConfigurationError, "Unknown option 'x' of criterion 'obs'"),
        ({"criterion_options": 3}, ConfigurationError, "criterion_options must map option names"),
        ({"minimum_width": -1}, ConfigurationError, "minimum_width must be a whole number of at least 0"),
        ({"round_to": "8"}, ConfigurationError, "prune.round_to is '8'; expected a whole number"),
        ({"scope": "block"}, ConfigurationError, "Unknown scope 'block'"),
        ({"ratio": "half"}, ConfigurationError, "prune.ratio is 'half'; expected a number"),
    ],
)
def test_the_prune_section_is_validated(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_recipe(prune_section(**changes))


def test_the_prune_section_is_a_configuration_with_the_same_meaning() -> None:
    fields = {"ratio": 0.5, "preset": "paper", "scope": "layer", "minimum_width": 2, "round_to": 4}
    recipe = make_recipe(prune_section(**fields))
    assert recipe.prune is not None
    assert recipe.prune.config == VBPConfig.from_dict(fields) == VBPConfig.preset("paper", **_without_preset(fields))
    options = {"criterion": "random", "criterion_options": {"seed": 3}, "compensation": "none"}
    recipe = make_recipe(prune_section(**options))
    assert recipe.prune is not None
    assert recipe.prune.config == VBPConfig(ratio=0.5, **options)


def _without_preset(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "preset"}


SECRETS = (
    {"training": {"hub_token": "hf_abcdefghijklmnopqrstuv"}},
    {"training": {"hub_token": "anything"}},
    {"training": {"run_name": "run of hf_abcdefghijklmnopqrstuv"}},
    {"data": {"train": {"source": "https://me:password@example.org/images.tar"}}},
    {"training": {"optim_args": {"nested": ["hf_abcdefghijklmnopqrstuv"]}}},
)


@pytest.mark.parametrize("changes", SECRETS)
def test_secrets_are_refused_without_showing_them(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="holds a secret") as caught:
        make_recipe(with_(**changes))
    assert not re.search("hf_abc|anything|password@", str(caught.value))


def test_an_empty_field_is_its_default() -> None:
    recipe = make_recipe(with_(training={"learning_rate": None, "hub_token": None}, data={"train": {"seed": None}}))
    assert recipe.arguments().learning_rate == 1.5e-5
    assert recipe.data.train.seed is None


def test_a_checkpoint_and_its_images_are_a_recipe() -> None:
    recipe = load_recipe(
        ["me/pruned-vit", "training.seed=3"], RecipeOptions(data="images", evaluation="labelled", output="out")
    )
    assert (recipe.model, recipe.output, recipe.name) == ("me/pruned-vit", "out", "defaults")
    assert (recipe.data.train.source, recipe.training) == ("images", {"seed": 3})
    assert recipe.data.evaluation is not None
    assert recipe.data.evaluation.source == "labelled"
    with pytest.raises(ConfigurationError, match=r"has no data\.train: set data\.train\.source \(or pass --data\)"):
        load_recipe(["folder"], RecipeOptions(output="out"))
    with pytest.raises(ConfigurationError, match="'folder' is neither a recipe"):
        load_recipe(["training.seed=3", "folder"], RecipeOptions(data="images", output="out"))


def test_flags_replace_the_fields_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(with_(data={"train": {"limit": 5}})), encoding="utf-8")
    recipe = load_recipe([path, "training.seed=3"], RecipeOptions(data="images", output=tmp_path / "out"))
    assert recipe.output == str(tmp_path / "out")
    assert recipe.data.train == DataRequest("images", limit=5)
    assert recipe.training == {"seed": 3}
    assert recipe.notes == (
        "--data images replaces data.train.source: 'sample' of the recipe",
        f"--output {tmp_path / 'out'} replaces output: 'out' of the recipe",
    )


def test_training_flags_set_the_fields_of_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    training = {"num_train_epochs": 10, "per_device_train_batch_size": 4}
    path.write_text(yaml.safe_dump(with_(training=training, teacher="big")), encoding="utf-8")
    options = RecipeOptions(teacher="none", epochs=3, learning_rate=1.25e-4, batch_size=4)
    recipe = load_recipe([path], options)
    assert recipe.teacher == "none"
    assert recipe.training == {"num_train_epochs": 3.0, "learning_rate": 1.25e-4, "per_device_train_batch_size": 4}
    # One note for each value of the file that changes.
    assert recipe.notes == (
        "--teacher none replaces teacher: 'big' of the recipe",
        "--epochs 3 replaces training.num_train_epochs: 10 of the recipe",
    )
    words = ["--teacher", "none", "--epochs", "3", "--learning-rate", "0.000125", "--batch-size", "4"]
    assert options.words == words
    # The options that are recorded with the run are those of the same run.
    read = RecipeOptions(teacher=words[1], epochs=float(words[3]), learning_rate=float(words[5]), batch_size=4)
    assert load_recipe([path], read) == recipe


def test_label_files_hold_for_training_and_evaluation() -> None:
    options = RecipeOptions(data="images", evaluation="labelled", model_labels="names.txt", label_map="map.json")
    recipe = load_recipe(["pruned", "output=out"], options)
    assert recipe.data.train == DataRequest("images", model_labels="names.txt", label_map="map.json")
    assert recipe.data.evaluation == DataRequest("labelled", model_labels="names.txt", label_map="map.json")
    without = load_recipe(["pruned", "output=out"], RecipeOptions(data="images", model_labels="names.txt"))
    assert without.data.evaluation is None
    assert without.data.train.model_labels == "names.txt"


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["training.num_train_epochs=5"], {"epochs": 3.0}, "--epochs 3 contradicts training.num_train_epochs=5: give"),
        (["training.learning_rate=1e-3"], {"learning_rate": 1e-4}, "--learning-rate 0.0001 contradicts training.lear"),
        (["teacher=none"], {"teacher": "big"}, "--teacher big contradicts teacher=none"),
        (["output=a"], {"output": Path("b")}, "--output b contradicts output=a"),
        (["data.train.source=a"], {"data": "b"}, "--data b contradicts data.train.source=a"),
        (
            [],
            {"epochs": 3.0},
            "--epochs 3 would have no effect, because training.max_steps is 60: leave --epochs 3 out",
        ),
        (
            ["training.num_train_epochs=3"],
            {},
            "training.num_train_epochs=3 would have no effect, because training.max",
        ),
        (["training.max_steps=-1"], {"epochs": 0.0}, "num_train_epochs is 0.0; expected a number above 0"),
        (["training.max_steps=-1"], {"batch_size": 0}, "per_device_train_batch_size is 0; expected at least 1"),
    ],
)
def test_flags_that_contradict_the_recipe_are_refused(
    tmp_path: Path, overrides: list[str], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(with_(training={"max_steps": 60})), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        load_recipe([path, *overrides], RecipeOptions(**options))


def test_flags_may_repeat_an_override(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(with_(training={"max_steps": 60})), encoding="utf-8")
    overrides = [path, "training.num_train_epochs=3", "training.max_steps=-1"]
    recipe = load_recipe(overrides, RecipeOptions(epochs=3.0))
    assert recipe.training == {"num_train_epochs": 3.0, "max_steps": -1}
    assert not recipe.notes
    # A file may hold both: the recipe that a run saves does.
    path.write_text(yaml.safe_dump(with_(training={"max_steps": 60, "num_train_epochs": 10})), encoding="utf-8")
    assert load_recipe([path]).training["max_steps"] == 60


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
    for heading in ("## requirements", "## cost", "## results"):
        assert heading in text.casefold()


def test_all_expected_recipes_exist() -> None:
    expected = {"deit-tiny", "deit-small", "deit-base", "vit-base", "sample", "vit-cifar10", "prune-then-finetune"}
    expected |= {"deit-base-tome"}
    assert {path.parent.name for path in RECIPES} == expected
