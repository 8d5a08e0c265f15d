"""``hf-vbp sweep --levers``: every lever alone and both, with the front in the table, the JSON file and the plot."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_vbp.costs.counts import count_macs
from hf_vbp.results.checks import find_problem
from hf_vbp.results.sweep import SweepResults, sweep_schema
from hf_vbp.token_merging.merge_tokens import merged_tokens
from hf_vbp.workflow import sweep as sweep_module
from hf_vbp.workflow import sweep_command, sweep_plot
from tests.cli.helpers import Ran, run, save_images, save_tiny
from tests.costs.clock import Clock


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "model")
    save_images(tmp_path / "images", each=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*options: str, data: bool = True, columns: int = 200) -> Ran:
        method = ["--criterion", "variance", "--compensation", "linear"]
        source = ["--data", "images"] if data else ["--statistics", "out/statistics.safetensors"]
        command = ["sweep", "model", *source, "--eval-data", "images", "-o", "out", *method]
        return run([*command, *options], capfd, monkeypatch, columns)

    return call


LEVERS = ["--levers", "mlp,tokens", "--macs", "0.85,0.68"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "out/sweep.csv").read_text().splitlines()))


def seconds(model: Any, now: float) -> float:
    """Narrower MLPs gain less time than merged tokens for the same MACs."""
    return count_macs(model) * (1 if merged_tokens(model) else 2) * 1e-9


@pytest.mark.processes
def test_table_json_and_plot_mark_the_front(sweep: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(seconds).install(monkeypatch)
    figures: list[Any] = []
    original = sweep_plot._draw_panel

    def kept(axes: Any, *arguments: Any) -> None:
        original(axes, *arguments)
        figures.append(axes)

    monkeypatch.setattr(sweep_plot, "_draw_panel", kept)
    ran = sweep(*LEVERS, "--latency", columns=80)
    assert ran.code == 0, ran.err
    # The MLPs alone cannot reach 0.68.
    assert "Left out: levers mlp: MACs: 0.68 cannot be reached" in " ".join(ran.err.split())
    results = json.loads((shelf / "out/sweep.json").read_text())
    assert find_problem(results, SweepResults) is None
    rows = results["rows"]
    assert [(row.get("levers"), row.get("target_macs")) for row in rows] == [
        (None, None), ("mlp", 0.85), ("tokens", 0.85), ("tokens", 0.68), ("mlp,tokens", 0.85), ("mlp,tokens", 0.68),
    ]  # fmt: skip
    for row in rows:
        for cost, mark in (("macs_share", "on_macs_front"), ("latency_share", "on_latency_front")):
            own = row.get(cost, 1.0)
            better = [o for o in rows if o.get(cost, 1.0) <= own and o["top1"] >= row["top1"]]
            assert row[mark] == all((o.get(cost, 1.0), o["top1"]) == (own, row["top1"]) for o in better)
    for row, written in zip(rows, rows_of(shelf), strict=True):
        assert written["on_macs_front"] == str(row["on_macs_front"])
        assert row["macs_share"] == row["macs"] / rows[0]["macs"]
    shown = ran.out.splitlines()
    assert max(map(len, shown)) <= 80
    for title in ("mlp, variance", "tokens, variance", "mlp + tokens, variance", "Latency"):
        assert any(line.strip().startswith(title) for line in shown)
    # One mark in the tables of MACs for each row of the front; the dense model is in all three.
    front = sum(row["on_macs_front"] for row in rows[1:]) + 3 * rows[0]["on_macs_front"]
    assert sum("%" in line and "x (" not in line and line.rstrip("│ ").endswith("*") for line in shown) >= front > 0
    assert len(figures) == 2
    costs = (("macs_share", "on_macs_front"), ("latency_share", "on_latency_front"))
    for axes, (cost, mark) in zip(figures, costs, strict=True):
        line = next(line for line in axes.get_lines() if line.get_label() == "front")
        expected = sorted((row.get(cost, 1.0), row["top1"]) for row in rows if row[mark])
        assert line.get_xydata() == pytest.approx(np.array(expected))
    assert (shelf / "out/sweep.png").stat().st_size > 1000


def test_an_interrupted_sweep_of_levers_continues(sweep: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_command, "MODELS_IN_MEMORY", 1)
    monkeypatch.setattr(sweep_module, "MODELS_IN_MEMORY", 1)
    evaluate, evaluated = sweep_module.evaluate_models, []

    def interrupted(models: Any, *arguments: Any, **options: Any) -> Any:
        evaluated.append(len(models) - 1)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluate(models, *arguments, **options)

    monkeypatch.setattr(sweep_module, "evaluate_models", interrupted)
    options = ["--levers", "tokens,mlp", "--macs", "0.85"]
    assert sweep(*options).code == 130
    kept = rows_of(shelf)
    assert [row["levers"] for row in kept] == ["", "mlp", "tokens"]
    ran = sweep(*options)
    assert ran.code == 0, ran.err
    assert "2 of 3 rows are kept" in ran.err
    assert len(evaluated) == 4
    marks = ("on_macs_front", "on_latency_front")
    without = [{name: value for name, value in row.items() if name not in marks} for row in rows_of(shelf)]
    assert without[:3] == [{name: value for name, value in row.items() if name not in marks} for row in kept]
    assert [row["levers"] for row in rows_of(shelf)] == ["", "mlp", "tokens", "mlp,tokens"]
    # Ratios are added to the same table.
    assert sweep("--ratios", "0.5").code == 0
    assert [row["levers"] for row in rows_of(shelf)] == ["", "mlp", "tokens", "mlp,tokens", ""]
    assert sweep(*options, "--json").code == 0
    assert len(evaluated) == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--levers", "mlp", "--ratios", "0.5"], "Give either --ratios, or --levers with --macs"),
        (["--levers", "depth"], "levers must be some of mlp, tokens"),
        (["--macs", "1.5"], "--macs must be between 0 and 1"),
        (["--levers", "mlp", "--macs", "0.05"], "0.05 cannot be reached"),
        (["--levers", "tokens", "--merge-tokens", "3"], "No such option"),
    ],
)
def test_bad_levers_end_with_one_sentence(sweep: Any, shelf: Path, options: list[str], says: str) -> None:
    ran = sweep(*options)
    assert ran.code == 2
    assert says in " ".join(ran.err.split())
    assert not (shelf / "out/sweep.csv").exists()


def test_merged_tokens_are_not_chosen_without_images(sweep: Any, shelf: Path) -> None:
    assert sweep("--ratios", "0.5").code == 0
    ran = sweep("--levers", "tokens", "--macs", "0.85", data=False)
    assert ran.code == 2
    assert "pass data (--data) in addition to the statistics" in " ".join(ran.err.split())


def test_the_included_schema_is_the_generated_one() -> None:
    included = Path(sweep_command.__file__).parents[1] / "results" / "sweep.schema.json"
    assert json.loads(included.read_text(encoding="utf-8")) == sweep_schema()
