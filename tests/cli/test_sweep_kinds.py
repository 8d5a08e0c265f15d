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


def rows_of(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    described = json.loads((folder / "out/sweep.json").read_text())
    jsonschema.validate(described, sweep_schema())
    return list(csv.DictReader((folder / "out/sweep.csv").read_text().splitlines())), described["rows"]


def test_a_backbone_by_neighbors_and_distance(
    sweep: Command, shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = sweep("backbone", "--ratios", "0.25,0.5")
    for column in ("k-NN", "output distance"):
        assert column in ran.out
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
    refused = sweep("backbone", "--ratios", "0.25", "--bank", "others", code=2)
    assert "with other evaluation images" in " ".join(refused.err.split())


def test_a_detector_by_the_distance_of_its_outputs(sweep: Command, shelf: Path) -> None:
    from transformers import ViTImageProcessorPil

    BY_NAME["YolosForObjectDetection"].build().save_pretrained(shelf / "detector")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(shelf / "detector")
    ran = sweep("detector", "--ratios", "0.25", "--json")
    (_, pruned) = json.loads(ran.out)
    assert set(pruned["outputs"]) == {"logits", "pred_boxes"}
    assert pruned["output_distance"] > 0
    refused = sweep("detector", "--ratios", "0.5", "--bank", "images", "--overwrite", code=2)
    assert "--bank and --neighbors are for backbones" in " ".join(refused.err.split())
