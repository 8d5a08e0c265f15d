"""Outputs are checked before any work, hold no input, and belong to one process at a time."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hf_vbp
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.cli.helpers import run, save_images, save_tiny

# The command line, which stops where the checkpoint is written but not yet verified.
STOPPING = """
import signal
import sys
from hf_vbp.checkpoint import saving
from hf_vbp.cli import main
def stop(model, folder, **options):
    print("writing", folder, flush=True)
    sys.stdin.read()
saving.take_receipt = stop
# Processes that a shell starts in the background ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    save_tiny(shelf / "model")
    save_images(shelf / "images")
    model = hf_vbp.from_pretrained(shelf / "model").eval()
    from tests.checkpoint.helpers import images

    statistics = hf_vbp.collect_statistics(model, [{"pixel_values": images()}])
    statistics.save(shelf / "stats.safetensors")
    return shelf


@pytest.fixture
def here(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(shelf, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


PRUNE = ["prune", "model", "--data", "images", "--ratio", "0.5", "-q"]
STATS = ["stats", "model", "--data", "images", "-q"]
PLAN = ["plan", "model", "--statistics", "stats.safetensors", "--ratio", "0.5"]
SWEEP = ["sweep", "model", "--data", "images", "--eval-data", "images", "-q"]


def pruned(name: str) -> Callable[[Path], object]:
    """Make a checkpoint of hf_vbp, which --overwrite would replace."""

    def make(here: Path) -> None:
        hf_vbp.save_checkpoint(hf_vbp.from_pretrained(here / "model"), here / name, verify=False)

    return make


def moved_into_a_checkpoint(name: str) -> Callable[[Path], object]:
    def make(here: Path) -> None:
        pruned("out")(here)
        shutil.move(here / name, here / "out" / name)

    return make


def linked(here: Path) -> None:
    (here / "link").symlink_to("model")


CASES: dict[str, tuple[list[str], str, Callable[[Path], object] | None]] = {
    "the model": ([*PRUNE, "-o", "model", "--overwrite"], "is the model of this run", None),
    "a link to the model": ([*PRUNE, "-o", "link", "--overwrite"], "is the model of this run", linked),
    "a folder with the model": ([*PRUNE, "-o", ".", "--overwrite"], "contains the model of this run", None),
    "the images": ([*PRUNE, "-o", "images", "--overwrite"], "is the folder of the images", None),
    "a folder with the images": (
        ["prune", "model", "--data", "out/images", "--ratio", "0.5", "-o", "out", "--overwrite"],
        "contains the folder of the images",
        moved_into_a_checkpoint("images"),
    ),
    "a folder with the evaluation images": (
        [*PRUNE, "--eval-data", "out/images/*.tar", "--data", "images", "-o", "out", "--overwrite"],
        "contains the folder of the evaluation images",
        lambda here: (pruned("out")(here), shutil.copytree(here / "images", here / "out" / "images")),
    ),
    "a folder with the statistics": (
        ["prune", "model", "--statistics", "out/stats.safetensors", "--ratio", "0.5", "-o", "out", "--overwrite"],
        "contains the statistics",
        moved_into_a_checkpoint("stats.safetensors"),
    ),
    "statistics over the weights": (
        [*STATS, "-o", "model/model.safetensors", "--overwrite"], "is the model of this run, or part", None,
    ),
    "statistics over an image": (
        [*STATS, "-o", "images/cat/0.png", "--overwrite"], "is the folder of the images of this run, or part", None,
    ),
    "a plan over the statistics": (
        [*PLAN, "-o", "stats.safetensors", "--overwrite"], "is the statistics of this run", None,
    ),
    "a plan over a link to the statistics": (
        [*PLAN, "-o", "link", "--overwrite"],
        "is the statistics of this run",
        lambda here: (here / "link").symlink_to("stats.safetensors"),
    ),
    "a plan over the config": ([*PLAN, "-o", "model/config.json", "--overwrite"], "is the model of this run", None),
    "merging over a part": (
        ["stats", "merge", "stats.safetensors", "b", "-o", "b", "--overwrite"],
        "is b, an input",
        lambda here: shutil.copy(here / "stats.safetensors", here / "b"),
    ),
    "a sweep in the model": ([*SWEEP, "-o", "model"], "is the model of this run", None),
    "a sweep in the images": ([*SWEEP, "-o", "images/../images"], "is the folder of the images", None),
    "a sweep on a file": ([*SWEEP, "-o", "stats.safetensors"], "is a file", None),
    "a sweep below a file": ([*SWEEP, "-o", "stats.safetensors/x"], "not a folder that can be written to", None),
    "a sweep over another": (
        [*SWEEP, "-o", "sweep"],
        "exists already",
        lambda here: ((here / "sweep").mkdir(), (here / "sweep" / "sweep.csv").write_text("mine")),
    ),
    "a sweep where nothing can be made": ([*SWEEP, "-o", "/proc/sweep"], "cannot be (made|written)", None),
    "statistics where nothing can be made": ([*STATS, "-o", "/proc/x"], "does not take new files", None),
    "a plan where nothing can be made": ([*PLAN, "-o", "/proc/x"], "does not take new files", None),
    "a checkpoint where nothing can be made": ([*PRUNE, "-o", "/proc/x"], "does not take new files", None),
    "statistics on a device": ([*STATS, "-o", "/dev/null", "--overwrite"], "is not a file", None),
    "a plan on a folder": ([*PLAN, "-o", "images", "--overwrite"], "is not a file", None),
    "statistics in the place of their state": ([*STATS, "-o", "s", "--resume", "s/state"], "of the state", None),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_refused_before_any_work(
    kind: str, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, says, make = CASES[kind]
    if make is not None:
        make(here)

    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr("hf_vbp.workflow.loading.load_model", load)
    for module in ("statistics_command", "prune_command", "sweep_command"):
        if hasattr(importlib.import_module(f"hf_vbp.workflow.{module}"), "load_model"):
            monkeypatch.setattr(f"hf_vbp.workflow.{module}.load_model", load)
    before = files(here)
    ran = run(arguments, capfd, monkeypatch)
    said = " ".join(ran.err.split())
    assert ran.code == 2, said
    assert re.search(says, said), said
    assert said.count("hf-vbp:") == 1
    assert files(here) == before
    assert not [path for path in here.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("arguments", [PRUNE, STATS, SWEEP])
def test_a_full_disk_is_noticed_before_the_pass(
    arguments: list[str], here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {"prune": 20_000, "stats": 20_000, "sweep": 0}[arguments[0]]
    usage = shutil.disk_usage(here)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    ran = run([*arguments, "-o", "out"], capfd, monkeypatch)
    said = " ".join(ran.err.split())
    assert ran.code == 2
    assert ("its disk is full" if free == 0 else "20.0 kB are free on that disk") in said
    assert not (here / "out").exists()


def test_a_sweep_can_be_repeated(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sweep").mkdir()
    (here / "sweep" / "notes.txt").write_text("mine")
    for options in ([], ["--overwrite"]):
        ran = run([*SWEEP, "--ratios", "0.5", "-o", "sweep", *options], capfd, monkeypatch)
        assert ran.code == 0, ran.err
        written = ["statistics.safetensors", "sweep.csv", "sweep.json", "sweep.png"]
        assert sorted(os.listdir(here / "sweep")) == ["notes.txt", *written]
        if not options:
            (here / "sweep" / "sweep.csv").write_text("old")
    assert (here / "sweep" / "sweep.csv").read_text().startswith("ratio")


def test_the_home_folder_of_an_output(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here / "images"))
    ran = run([*PLAN, "--output=~/plan.json"], capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert (here / "images" / "plan.json").is_file()
    assert not (here / "~").exists()


def stopped(arguments: list[str], here: Path) -> subprocess.Popen[str]:
    """Start the command line in a separate process, and wait until it writes the checkpoint."""
    environment = {**os.environ, "TMPDIR": str(here / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
    (here / "tmp").mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING, *arguments], cwd=here, env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("writing"), process.communicate()[1]
    return process


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_ended_while_it_writes(
    number: int, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned("out")(here)
    before = files(here / "out")
    command = [*PRUNE, "-o", "out", "--overwrite"]
    process = stopped(command, here)
    assert list(here.glob(".out.*.partial"))
    # A second run to the same output ends with one sentence, and does not affect the first one.
    ran = run(command, capfd, monkeypatch)
    assert ran.code == 2
    assert f"is being written by another process (pid {process.pid})" in " ".join(ran.err.split())
    process.send_signal(number)
    _, said = process.communicate()
    assert files(here / "out") == before
    if number == signal.SIGKILL:
        assert process.returncode == -9
        assert len(list(here.glob(".out.*"))) == 2
    else:
        assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(number)], said
        assert number == signal.SIGINT or "terminated; no partial output was left" in said
        assert "Traceback" not in said
        assert not list(here.glob(".*"))
        assert os.listdir(here / "tmp") == []
    # The next run replaces the checkpoint and removes the files of a killed one.
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(folder))
    ran = run(command, capfd, monkeypatch)
    assert ran.code == 0, ran.err
    assert not list(here.glob(".*"))
    assert files(here / "out") != before


def test_statistics_of_an_earlier_run_are_kept_when_the_pass_fails(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "images" / "cat" / "0.png").write_text("no image")
    ran = run([*STATS, "-o", "stats.safetensors", "--overwrite"], capfd, monkeypatch)
    assert ran.code == 2
    assert ActivationStatistics.load(here / "stats.safetensors").images == 2
    assert sorted(os.listdir(here)) == ["images", "model", "stats.safetensors"]
