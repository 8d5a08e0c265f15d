"""The results file: unmeasured figures have no key, and it is read strictly."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import hf_vbp
from hf_vbp.card.front_matter import split_card
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.errors import CheckpointError, HfVbpError
from hf_vbp.hub.audit import figures_of_index
from hf_vbp.hub.load_checks import recorded_hashes
from hf_vbp.results.measured import without_unmeasured
from hf_vbp.results.record import load_results, parse_results, schema, to_json
from hf_vbp.results.versions import versions
from tests.hub.helpers import make_results

EXAMPLES = sorted((Path(__file__).parents[2] / "model_cards" / "examples").glob("*"))
# Sections as the first version wrote them: by `hf-vbp finetune`, and by the callback.
FIRST_VERSION: list[dict[str, Any]] = [
    {
        "recipe": "deit-tiny",
        "teacher": "facebook/deit-tiny-patch16-224",
        "hard_label_weight": 0.5,
        "temperature": 2.0,
        "soft_loss": "kl",
        "epochs": 2.0,
        "steps": 4,
        "images_per_step": 10,
        "processes": 1,
        "optimizer": "adamw_torch_fused",
        "learning_rate": 1.5e-05,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "augmentation": "paper",
        "seed": 42,
        "precision": "fp32",
        "device": "cpu",
        "seconds": 3.1,
        "per_epoch": [{"epoch": 1, "loss": 1.5, "hard_loss": 1.0, "soft_loss": 2.0, "top1": 0.5}],
        "versions": {"torch": "2.13.0"},
        "retention": 1.01,
    },
    {
        "epochs": 2.0,
        "steps": 20,
        "processes": 2,
        "learning_rate": 5e-05,
        "optim": "adamw_torch",
        "warmup_steps": 0,
        "per_device_train_batch_size": 8,
        "bf16": True,
        "last_training_loss": 1.5,
    },
]


def test_unmeasured_figures_have_no_key() -> None:
    results = {"a": None, "b": {"c": None}, "d": [1, None], "e": math.nan, "f": 0, "g": {}, "h": False}
    assert without_unmeasured(results) == {"d": [1, None], "f": 0, "h": False}


def test_the_text_is_plain_json() -> None:
    assert json.loads(to_json({"kl": math.inf, "top1": 0.5, "name": "Bär"})) == {"top1": 0.5, "name": "Bär"}


def test_versions_of_the_packages() -> None:
    assert {"python", "hf_vbp", "torch", "transformers", "accelerate"} <= versions().keys()


def test_the_included_schema_is_the_generated_one() -> None:
    """After a change of a section: ``python -m hf_vbp.results.record``."""
    included = Path(hf_vbp.__file__).parent / "results" / "results.schema.json"
    assert json.loads(included.read_text(encoding="utf-8")) == schema()
    jsonschema.Draft202012Validator.check_schema(schema())


def test_the_schema_refuses_unknown_figures() -> None:
    results = {**make_results(), "accuracy_in_percent": 83.2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(results, schema())
    with pytest.raises(CheckpointError, match="accuracy_in_percent is not a known field"):
        parse_results(json.dumps(results))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_valid(example: Path) -> None:
    jsonschema.validate(load_results(example), schema())


@pytest.mark.parametrize("finetuning", FIRST_VERSION)
def test_results_of_the_first_version_are_read(finetuning: dict[str, Any]) -> None:
    results = make_results(finetuning=finetuning)
    assert parse_results(json.dumps(results)) == results
    jsonschema.validate(results, schema())


def test_results_of_a_run_are_valid(vit: Any, batches: list[dict[str, Any]]) -> None:
    results = hf_vbp.prune(vit, batches, hf_vbp.VBPConfig(ratio=0.5)).results
    text = to_json(results)
    jsonschema.validate(json.loads(text), schema())
    assert parse_results(text)["plan"]["widths"] == results["plan"]["widths"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "no object"),
        (b'{"schema_version": 2}', "version 2"),
        (b'{"schema_version": true}', "version True"),
        (b'{"schema_version": 1.0}', "version 1.0"),
        (b'{"schema_version": 1}', "base_model is missing"),
        (b'{"schema_version": 1, "schema_version": 1}', "'schema_version' appears twice"),
        (b'{"schema_version": NaN}', "NaN is not a JSON number"),
        (b'{"a":' * 100_000, "cannot be read"),
        (b'{"schema_version": ' + b"1" * 10_000 + b"}", "cannot be read"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "vbp_results.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vbp_results\.json") as caught:
        load_results(tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("plan", "ratio", 1.5, "plan.ratio is 1.5; expected at most 1."),
        ("plan", "ratio", "0.5", 'plan.ratio is "0.5"; expected a number.'),
        ("plan", "ratio", True, "plan.ratio is true; expected a number."),
        ("plan", "scope", "both", "plan.scope is \"both\"; expected one of 'global', 'layer'."),
        ("plan", "budget", {"kind": "ratio", "asked": -1, "achieved": 1}, "plan.budget.asked is -1"),
        ("plan", "widths", [5, 48, 2.5], "plan.widths[2] is 2.5; expected an integer."),
        ("plan", "widths", [5, 48, 170], "plan.widths[2] is 170; expected at most 48"),
        ("plan", "widths", [5, 48], "plan.widths has 2 entries; expected 3"),
        ("plan", "dense_widths", [], "plan.widths has 3 entries; expected 0"),
        ("evaluation", "retention", -0.1, "evaluation.retention is -0.1; expected at least 0."),
        ("evaluation", "dense", {"images": 0}, "evaluation.dense.images is 0; expected at least 1."),
        ("evaluation", "pruned", {"images": 5, "top1_interval": [0]}, "evaluation.pruned.top1_interval has 1 items"),
        ("evaluation", "pruned", {"images": 2**70}, "evaluation.pruned.images is an integer of 71 bits"),
        ("cost", "pruned", {"parameters": 1, "macs": 1}, "cost.pruned.bytes is missing."),
        ("predicted", "relative_output_error", -3, "predicted.relative_output_error is -3"),
        ("versions", "torch", 2, "versions.torch is 2; expected text."),
    ],
)
def test_the_error_names_the_field(section: str, key: str, value: Any, message: str) -> None:
    results = make_results()
    results[section][key] = value
    with pytest.raises(CheckpointError, match=r"^vbp_results\.json: ") as caught:
        parse_results(json.dumps(results))
    assert message in str(caught.value)


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    2**63,
    10**400,
    "",
    "0.5",
    "<script>\n# x",
    [],
    [[]],
    [None],
    ["x"],
    {},
    {"": {}},
    {"kind": "ratio"},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every field, list entry and section."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(results: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy of results with one value replaced; deleted for ``...``."""
    copied = copy.deepcopy(results)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


def use(results: Any) -> None:
    """Use the results of another author in every way."""
    card = render_card(make_facts(results, repo_id="me/x"))
    metadata, _ = split_card(card)
    figures_of_index(metadata)
    recorded_hashes(results)
    to_json(results)


def fuzzed() -> dict[str, Any]:
    results = make_results(finetuning=copy.deepcopy(FIRST_VERSION[0]))
    results["receipt"][0]["files"] = {"model.safetensors": "0" * 64}
    results["plan"]["options"] = {"compensation": {"regularization": 0.01}}
    results["data"]["calibration"] |= {"processor": {"size": {"height": 32}}, "skipped_names": ["a.jpg"], "seed": 0}
    return results


def test_every_single_change_is_read_or_refused_by_name() -> None:
    """No change of one value gives an error of another kind, at reading or at use.

    ``jsonschema``, which shares no code with the checks, accepts and refuses the same files.
    """
    results, validator = fuzzed(), jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(results)
    read = refused = 0
    for path in places(results):
        for value in (*WRONG, ...):
            candidate = changed(results, path, value)
            message = refusal(candidate)
            read, refused = read + (message is None), refused + (message is not None)
            # Rules that no schema can express, and numbers that jsonschema treats as integers.
            is_shape = path[0] == "plan" and "plan." in (message or "")
            is_size = isinstance(value, int | float) and value >= 2**63
            assert (message is None) == validator.is_valid(candidate) or is_shape or is_size, (path, value, message)
    assert min(read, refused) > 200


def refusal(candidate: dict[str, Any]) -> str | None:
    """Return the message with which results are refused, None where they are read and used."""
    try:
        use(parse_results(json.dumps(candidate)))
    except HfVbpError as error:
        return str(error)
    return None


@pytest.mark.parametrize("key", ["x", "", "a.b", "\u202e", "x" * 1000])
def test_every_additional_key_is_read_or_refused(key: str) -> None:
    results = fuzzed()
    for path in [(), *places(results)]:
        place: Any = results
        for part in path:
            place = place[part]
        if isinstance(place, dict):
            for value in ("x", 10**400, [[[1.5]]], {"a": {"b": None}}):
                assert len(refusal(changed(results, (*path, key), value)) or "") < 700


def test_deep_values_are_refused() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(CheckpointError, match="levels deep"):
        parse_results(json.dumps(make_results(statistics={"x": deep})))
