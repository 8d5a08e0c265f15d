"""The help of every command."""

import re
from typing import Any

import pytest
import typer

from hf_vbp.cli import groups
from hf_vbp.cli.app import build
from tests.cli.helpers import run

COMMANDS = ("inspect", "stats", "stats show", "stats merge", "plan", "prune", "sweep", "evaluate", "finetune",
            "recipes", "push", "audit", "ui")  # fmt: skip


def options_of(command: str) -> dict[str, Any]:
    found: Any = typer.main.get_command(build())
    for name in [*command.split(), *(["gather"] if command == "stats" else [])]:
        found = found.commands[name]
    return {flag: parameter for parameter in found.params for flag in parameter.opts}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_short_and_long_help_are_the_same(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = (run([*command.split(), flag], capfd, monkeypatch) for flag in ("-h", "--help"))
    assert (short.code, short.err) == (0, "")
    assert short.out == long.out
    assert "-h" in short.out


@pytest.mark.parametrize("command", ["", "stats gather", *COMMANDS])
def test_the_help_fits_into_80_columns(
    command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run([*command.split(), "-h"], capfd, monkeypatch, columns=80)
    assert 60 < max(map(len, ran.out.splitlines())) <= 80
    # No option is cut off.
    if command == "stats":
        assert "hf-vbp stats gather -h" in " ".join(ran.out.replace("│", " ").split())
        return
    for flag, parameter in options_of(command).items() if command else ():
        assert not flag.startswith("--") or getattr(parameter, "hidden", False) or flag in ran.out, flag


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_panel_and_a_description(command: str) -> None:
    panels = {value for name, value in vars(groups).items() if name.isupper() and isinstance(value, str)}
    for flag, parameter in options_of(command).items():
        if flag.startswith("-") and flag not in ("--help", "-h"):
            assert parameter.rich_help_panel in panels, flag
            assert parameter.help, flag


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"ui"}))
def test_every_command_that_prints_a_result_can_print_json(command: str) -> None:
    assert "--json" in options_of(command)


def test_methods_in_the_help_are_the_built_in_ones() -> None:
    from hf_vbp.config.registry import COMPENSATIONS, CRITERIA

    for listed, registry in ((groups.CRITERIA, CRITERIA), (groups.COMPENSATIONS, COMPENSATIONS)):
        names = listed.split(", ")
        assert names == sorted(names)
        built_in = [name for name in registry.names() if registry.get(name).__module__.startswith("hf_vbp.")]
        assert names == built_in


def test_old_names_are_unknown(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["pull-check", "me/model"], capfd, monkeypatch).code == 2
    assert not {"--target-params", "--max-images"} & options_of("prune").keys()


def test_the_guide_names_only_existing_flags() -> None:
    from pathlib import Path

    known = {flag for command in COMMANDS for flag in options_of(command)}
    root = Path(__file__).parents[2]
    for page in ("README.md", "docs/guide.md", "docs/concepts.md", *(f"recipes/{name}" for name in _readmes(root))):
        text = (root / page).read_text(encoding="utf-8")
        lines = text.replace("\\\n", " ").splitlines()
        commands = " ".join(part for line in lines for part in re.findall(r"(?:^\s*|`)hf-vbp [^`]*", line))
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", commands))
        assert named <= known | {"--help", "--debug"}, (page, named - known)


def _readmes(root: Any) -> list[str]:
    return [path.relative_to(root / "recipes").as_posix() for path in (root / "recipes").glob("*/README.md")]


def test_only_prune_offers_several_batch_sizes() -> None:
    described = {command: options_of(command)["--latency-batch"].help for command in ("plan", "sweep", "prune")}
    assert described["plan"] == described["sweep"] == "Images per pass."
    assert "may be repeated" in described["prune"]


def test_paragraphs_of_the_help_have_no_line_breaks_of_the_source() -> None:
    commands: list[Any] = [typer.main.get_command(build())]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    assert len(commands) > len(COMMANDS)
    paragraphs = [part for command in commands for part in (command.help or "").split("\n\n")]
    assert not [part for part in paragraphs if "\n" in part.strip()]
