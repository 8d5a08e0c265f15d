"""The results file: what was not measured has no key, and what it holds fits its schema."""

import json
import math
from pathlib import Path

import jsonschema
import pytest

from hf_vbp.errors import CheckpointError
from hf_vbp.results.record import load_results, schema, to_json, without_unmeasured
from hf_vbp.results.versions import versions


def test_what_was_not_measured_has_no_key() -> None:
    results = {"a": None, "b": {"c": None}, "d": [1, None], "e": math.nan, "f": 0, "g": {}, "h": False}
    assert without_unmeasured(results) == {"d": [1, None], "f": 0, "h": False}


def test_the_text_is_plain_json() -> None:
    assert json.loads(to_json({"kl": math.inf, "top1": 0.5, "name": "Bär"})) == {"top1": 0.5, "name": "Bär"}


def test_versions_name_what_the_results_rest_on() -> None:
    assert {"python", "hf_vbp", "torch", "transformers", "accelerate"} <= versions().keys()


def test_the_schema_is_a_schema_and_refuses_unknown_figures() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema_version": 1, "accuracy_in_percent": 83.2}, schema())


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema_version": 2}'])
def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "vbp_results.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"vbp_results\.json"):
        load_results(tmp_path)
