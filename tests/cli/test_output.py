"""Printed output: data is printed literally, JSON is printed alone, errors are one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.cli import prune
from hf_vbp.cli.console import Reporter, literal, print_error, print_json, print_lines, print_table, standard_error
from tests.cli.helpers import run, save_images, save_tiny

# Rich markup, emoji code, escape sequences of seven and eight bits, a change of direction.
NASTY = "[/x][red]:smile: \x1b[31m\x9b2J\u202e"
LITERAL = "[/x][red]:smile: \\x1b[31m\\x9b2J\\u202e"


def test_text_with_markup_and_escapes_is_printed_literally(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table(NASTY, (NASTY, "b", "|"), [(NASTY, NASTY, NASTY)], caption=NASTY)
    print_lines([NASTY])
    print_error(NASTY)
    reporter = Reporter()
    reporter.say(NASTY)
    with reporter.stage(NASTY, 1) as progress:
        progress(1, None)
    standard_error().print(literal(NASTY))
    shown = capfd.readouterr()
    assert shown.out.count(LITERAL) == 7
    assert shown.err.count(LITERAL) >= 4
    assert not {"\x1b", "\x9b", "\u202e"} & {*shown.out, *shown.err}


def test_json_reads_back_and_has_no_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    value = {"name": NASTY, "backslash": "\\x9b", "umlaut": "ä"}
    print_json(value)
    shown = capfd.readouterr().out
    assert json.loads(shown) == value
    assert not {"\x1b", "\x9b", "\u202e"} & {*shown}
    assert "ä" in shown


@pytest.fixture(scope="module")
def nasty_statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of statistics whose sites and file name hold markup and escapes."""
    from dataclasses import replace

    import torch

    from hf_vbp.calibration.collect import collect_statistics
    from tests.conftest import make_model

    batch = {"pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    statistics = collect_statistics(make_model(), [batch])
    sites = tuple(replace(site, name=f"{site.index}{NASTY}") for site in statistics.sites)
    path = tmp_path_factory.mktemp("nasty") / "[bold]\x1b[31m"
    replace(statistics, sites=sites).save(path)
    return path


def test_names_of_sites_and_files_are_shown_literally(
    nasty_statistics: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nasty_statistics.parent)
    ran = run(["stats", "show", nasty_statistics.name], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert f"0{LITERAL}" in ran.out
    assert "[bold]\\x1b[31m: 4 images" in ran.out
    missing = run(["stats", "show", "[/x]\x1b[31m"], capfd, monkeypatch)
    assert missing.code == 2
    assert "[/x]\\x1b[31m" in missing.err
    assert "\x1b" not in ran.out + missing.err


def test_a_damaged_folder_with_markup_in_its_name_ends_in_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "[red] x [bold]"
    folder.mkdir()
    ran = run(["inspect", folder], capfd, monkeypatch)
    assert ran.code == 2
    assert "[red] x [bold] has no config.json" in ran.err


def broken(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("secret [/x] \x1b[31m " + "long " * 1000)


def test_an_unexpected_error_is_one_sentence_and_the_traceback_is_available(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vbp.workflow.loading.load_structure", broken)
    monkeypatch.setenv("HF_VBP_DEBUG", "0")
    ran = run(["inspect", "sample"], capfd, monkeypatch)
    assert (ran.code, ran.out) == (2, "")
    assert "hf-vbp: unexpected ZeroDivisionError: secret [/x] \\x1b[31m" in ran.err
    assert "HF_VBP_DEBUG=1" in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err) < 700
    for arguments, debug in ((["inspect", "sample"], "1"), (["--debug", "inspect", "sample"], "0")):
        monkeypatch.setenv("HF_VBP_DEBUG", debug)
        ran = run(arguments, capfd, monkeypatch)
        assert ran.code == 2
        assert "Traceback (most recent call last)" in ran.err
        assert "in broken" in ran.err
        assert "\x1b" not in ran.err


def test_a_long_message_of_ours_is_cut(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run(["inspect", "./" + "x" * 100_000], capfd, monkeypatch)
    assert ran.code == 2
    assert len(ran.err) < 2200


@pytest.mark.processes
def test_tables_fit_into_80_columns(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", kind="deit", num_hidden_layers=12)
    images = save_images(tmp_path / "images")
    file = tmp_path / "s.safetensors"
    environment = {**os.environ, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    commands = (
        ["stats", model, "--data", images, "--output", file, "--quiet"],
        ["inspect", model],
        ["plan", model, "--statistics", file, "--ratio", "0.5"],
        ["evaluate", model, "--data", images, "--base", model, "--quiet"],
    )
    for command in commands:
        ran = subprocess.run(
            [sys.executable, "-m", "hf_vbp", *map(str, command)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line for line in ran.stdout.splitlines() if line.startswith(("│", "┃"))]
        assert rows
        assert max(map(len, rows)) <= 80
        if command[0] != "evaluate":
            # The name of a site is on one line, with its figures.
            assert sum("deit.layers.11.mlp" in row for row in rows) == 1, ran.stdout


def test_the_tables_of_a_sweep_fit_into_80_columns(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_vbp.cli.sweep import show

    monkeypatch.setenv("COLUMNS", "80")
    size = {"parameters": 86_567_656, "macs": 17_563_000_000, "top1": 0.8319, "latency_ms": 143.21}
    speed = {"agreement": 0.934, "kl": 0.1234, "speedup": 1.387, "speedup_low": 1.371, "speedup_high": 1.399}
    methods = [{"criterion": name, "compensation": "linear"} for name in ("obs", "weighted-variance")]
    rows = [{"ratio": 0.0, **size}, *({**size, **speed, **method, "ratio": 0.3} for method in methods)]
    show(rows, [Path("out/sweep.csv")])
    shown = capfd.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    # Each row is one line with all its figures, and the method is named.
    assert sum("86.57 M │ 17.56 G │ 83.2 % │" in line and "93.4 % │ 0.123 │" in line for line in shown) == 2
    assert [line for line in shown if line.endswith(", no training")] == [
        "obs + linear, no training",
        "weighted-variance + linear, no training",
    ]
    assert sum("weighted-variance + linear │" in line and "1.39x (1.37 to 1.40)" in line for line in shown) == 1


def test_the_two_output_errors_have_the_same_names_everywhere() -> None:
    from hf_vbp.ui.views import receipt

    counts = {name: 100 for name in ("parameters", "macs", "bytes")}
    results = {
        "plan": {"ratio": 0.5},
        "cost": {"dense": counts, "pruned": counts},
        "predicted": {"relative_output_error": 0.125},
        "observed": {"relative_output_error": 0.25},
    }
    rows = prune._cost_rows(results)
    assert [row[0] for row in rows[:2]] == [
        "output error of the MLPs, predicted",
        "output error of the MLPs, observed",
    ]
    page = receipt(results, "Result")
    assert "Output error of the MLPs, predicted" in page
    assert "Output error of the MLPs, observed" in page
