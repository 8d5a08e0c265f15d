"""Recipes that would take long or much memory, or run code, end in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.finetune.yaml_text import parse_yaml, write_yaml


def alias_bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}")
    return "\n".join(lines)


BOMBS = {
    "aliases in a field": (alias_bomb(9) + "\noutput: *a8\n", "more than 10000 values"),
    "merged mappings": (merge_bomb(9) + "\noutput: *a8\n", "more than 10000 values"),
    "a list of itself": ("output: &a [*a]", "nested too deeply"),
    "a mapping of itself": ("output: &a {x: *a}", "nested too deeply"),
    "nested lists": ("output: " + "[" * 45_000, "nested too deeply"),
    "nested mappings": ("output: " + "{a: " * 20_000, "nested too deeply"),
    "a long text": ("output: 3\nmodel: " + "x" * 2_000_000, "expected at most 100000"),
    "a long number": ("output: " + "9" * 90_000, "a number is too long"),
    "a large number": (
        "model: m\noutput: " + "9" * 4_000,
        "output is a number of more than 60 digits; expected a text",
    ),
    "a long list": ("output: [" + "1," * 40_000 + "]", "more than 10000 values"),
    "many keys": ("\n".join(f"k{number}: 1" for number in range(9_000)), "more than 10000|unknown field k0"),
    "a long list in a field": ("model: m\noutput: [" + "1," * 4_000 + "]", "output is a list; expected a text"),
    "a long text in a field": (
        "model: m\noutput: o\ndata: {train: {source: s}}\ntraining: {seed: " + "x" * 90_000 + "}",
        r"training.seed is 'x{100}'\.\.\.; expected",
    ),
    "a long name": ("? " + "x" * 90_000 + "\n: 1", "unknown field x{100}: "),
    "code": ("output: !!python/object/apply:os.system ['touch hacked']", "the tag .*os.system' is not allowed"),
    "a module": ("output: !!python/module:this", "the tag .* is not allowed"),
    "a binary": ("output: !!binary '*'", "the tag .* is not allowed"),
    "an own tag": ("output: !mine {a: 1}", "the tag '!mine' is not allowed"),
    "an import": ("import: os\noutput: out", "unknown field import"),
}

CHILD = """
import json, resource, sys, time
import hf_vbp.distillation.arguments  # takes its memory before the limit
from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.finetune.recipe import load_recipe

memory = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (memory + (300 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 60,) * 2)
for arguments in json.loads(sys.argv[1]):
    try:
        load_recipe(arguments)
    except ConfigurationError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.processes
def test_hostile_recipes_are_refused_with_little_time_and_memory(tmp_path: Path) -> None:
    commands = []
    for number, (content, _) in enumerate(BOMBS.values()):
        recipe = tmp_path / f"{number}.yaml"
        recipe.write_text(content, encoding="utf-8")
        commands.append([str(recipe)])
    (tmp_path / "good.yaml").write_text("output: out", encoding="utf-8")
    deep = ".".join(["a"] * 10_000) + "=1"
    commands += [[str(tmp_path / "good.yaml"), deep], [str(tmp_path / "good.yaml"), "output=" + "[" * 45_000]]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    messages = [json.loads(line) for line in ran.stdout.splitlines()]
    expected = [message for _, message in BOMBS.values()] + [
        "neither a recipe",
        "output: values are nested too deeply",
    ]
    assert len(messages) == len(expected)
    for pattern, message in zip(expected, messages, strict=True):
        assert re.search(pattern, message), (pattern, message[:500])
        assert len(message) < 700
    assert not (tmp_path / "hacked").exists()


def test_a_recipe_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    from hf_vbp.workflow.finetune.recipe import load_recipe

    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("pipe.yaml", "folder.yaml", "bytes.yaml"):
        with pytest.raises(ConfigurationError, match=rf"{name} cannot be read"):
            load_recipe([tmp_path / name])


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("0x10", "0x10"), ("1:30", "1:30"), ("1_000", "1_000"), ("2026-01-01", "2026-01-01"), ("~", None),
     ("-.5", -0.5), (".inf", float("inf")), ("-3", -3), ("'1'", "1"), ("yes", "yes"), ("TRUE", True)],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}", "here")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", ["1e-4", "no", "1:30", "010", "2026-01-01", "~", "true", "<<", "a: b", "ä", 1e-5, 3])
def test_written_values_read_back_as_themselves(value: Any) -> None:
    found = parse_yaml(write_yaml({"a": [value], "b": {"c": value}}), "here")
    assert found == {"a": [value], "b": {"c": value}}
    assert type(found["b"]["c"]) is type(value)


def test_anchors_and_aliases_of_a_sensible_size_work() -> None:
    text = "base: &base {source: sample, seed: 1}\ntrain: {<<: *base, limit: 3}\neval: *base\n"
    assert parse_yaml(text, "here")["train"] == {"source": "sample", "seed": 1, "limit": 3}
