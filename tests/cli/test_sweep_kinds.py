"""``hf-vbp sweep`` of models that are no classifiers."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hf_vbp.results.sweep import sweep_schema
from tests.families.running import BY_NAME

from .helpers import run, save_images, save_tiny

NAMES = ("ant", "bee")
Command = Callable[..., Any]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "backbone", "vit-backbone")
    save_images(tmp_path / "images", 3, NAMES)
    save_images(tmp_path / "others", 3, NAMES, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(model: str, *options: Any, code: int = 0) -> Any:
        command = ["sweep", model, "--data", "images", "--eval-data", "others", "-o", "out", *options]
        ran = run(command, capfd, monkeypatch, columns=80)
        assert ran.code == code, ran.err
        return ran

    return call


def save(model: Any, folder: Path) -> None:
    from transformers import ViTImageProcessorPil

    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def rows_of(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    described = json.loads((folder / "out/sweep.json").read_text())
    jsonschema.validate(described, sweep_schema())
    return list(csv.DictReader((folder / "out/sweep.csv").read_text().splitlines())), described["rows"]


def test_a_backbone_by_neighbors_and_distance(
    sweep: Command, shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = sweep("backbone", "--ratios", "0.25,0.5")
    for shown in ("k-NN", "distance", "no training; 6 neighbors of 6 images"):
        assert shown in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    table, rows = rows_of(shelf)
    assert [row["ratio"] for row in table] == ["0.0", "0.25", "0.5"]
    # The calibration images are the bank, as of `prune`.
    prune = ["prune", "backbone", "--data", "images", "--eval-data", "others", "--ratio", "0.5", "-o", "pruned", "-q"]
    assert run(prune, capfd, monkeypatch).code == 0
    expected = json.loads((shelf / "pruned/vbp_results.json").read_text())["evaluation"]
    for found, state in ((rows[0], "dense"), (rows[2], "pruned")):
        assert found["knn_top1"] == pytest.approx(expected[state]["knn"]["top1"])
        assert (found["neighbors"], found["bank_images"]) == (6, 6)
    assert rows[2]["output_distance"] == pytest.approx(expected["pruned"]["output_distance"]["mean"], rel=1e-6)
    assert rows[2]["outputs"] == expected["pruned"]["outputs"]
    assert "output_distance" not in rows[0]

    # Continued: the earlier rows keep everything, also what the table has no columns for.
    again = sweep("backbone", "--ratios", "0.25,0.75")
    assert "1 of 2 rows is kept" in again.err
    _, continued = rows_of(shelf)
    assert continued[: len(rows)] == rows
    assert len(continued) == len(rows) + 1
    # The same as by default.
    assert "2 of 2 rows are kept" in sweep("backbone", "--ratios", "0.25,0.5", "--neighbors", "6").err
    (shelf / "out/sweep.json").write_text('{"schema')
    assert "lack the figures of each class or output" in " ".join(
        sweep("backbone", "--ratios", "0.25,0.5").err.split()
    )
    refused = sweep("backbone", "--ratios", "0.25", "--bank", "others", code=2)
    assert "with other evaluation images, bank or neighbors" in " ".join(refused.err.split())


def test_a_detector_by_the_distance_of_its_outputs(sweep: Command, shelf: Path) -> None:
    save(BY_NAME["YolosForObjectDetection"].build(), shelf / "detector")
    ran = sweep("detector", "--ratios", "0.25", "--json")
    (_, pruned) = json.loads(ran.out)
    assert set(pruned["outputs"]) == {"logits", "pred_boxes"}
    assert pruned["output_distance"] > 0
    refused = sweep("detector", "--ratios", "0.5", "--bank", "images", "--overwrite", code=2)
    assert "--bank and --neighbors are for backbones" in " ".join(refused.err.split())


def test_levers_of_a_backbone_fit_a_terminal(sweep: Command, shelf: Path) -> None:
    save(BY_NAME["SiglipVisionModel"].build(), shelf / "siglip")
    ran = sweep("siglip", "--levers", "mlp,tokens", "--macs", "0.9")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    # The dense model in the table of each lever and in that of both: no cell is folded.
    assert sum(line.startswith("│ 100.0 % │") and "B │" in line for line in lines) == 3
    _, rows = rows_of(shelf)
    assert all("on_macs_front" in row for row in rows)


def test_without_labels_a_backbone_is_compared_by_the_distance(
    shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_images(shelf / "foxes", 3, ("fox", "gnu"))
    flat = shelf / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((shelf / "images").rglob("*.png"))):
        path.rename(flat / f"{number}.png")
    # Images without labels, and calibration images of other classes.
    for data, reason in (("flat", "name labelled images with --bank"), ("foxes", "are not those of the calibration")):
        out = ["-o", f"out_{data}"]
        ran = run(
            ["sweep", "backbone", "--data", data, "--eval-data", "others", "--ratios", "0.5", *out], capfd, monkeypatch
        )
        assert ran.code == 0, ran.err
        assert reason in " ".join(ran.err.split())
        assert "k-NN" not in ran.out
        assert "output distance" in ran.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bank-limit", "3"], "--bank-limit choose images of --bank, which is not given"),
        (["--bank", "images", "--neighbors", "50"], "neighbors is 50, but the bank has 6 images"),
        (["--bank", "foxes"], "The classes of others are not those of the bank, foxes"),
    ],
)
def test_a_bank_that_does_not_fit_is_refused_before_the_pass(
    options: list[str], says: str, sweep: Command, shelf: Path
) -> None:
    save_images(shelf / "foxes", 3, ("fox", "gnu"))
    refused = sweep("backbone", "--ratios", "0.5", *options, code=2)
    assert says in " ".join(refused.err.split())
    assert "Statistics" not in refused.err


def test_skipped_images_of_the_bank_are_reported(sweep: Command, shelf: Path) -> None:
    (shelf / "images/ant/broken.png").write_bytes(b"no image")
    save_images(shelf / "bank", 2, NAMES)
    (shelf / "bank/ant/unreadable.png").write_bytes(b"no image")
    ran = sweep("backbone", "--ratios", "0.5", "--bank", "bank", "--on-bad-image", "skip")
    assert "unreadable.png" in ran.err
