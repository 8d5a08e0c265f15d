"""Every command on real files: what it prints, what it writes, and that the parts give what the whole gives."""

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hf_vbp.results.record import load_results, schema
from tests.cli.helpers import Ran, run, save_images, save_tiny
from tests.costs.clock import Clock


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    save_tiny(shelf / "model")
    save_images(shelf / "images", each=4)
    save_images(shelf / "labelled", each=2, seed=1)
    return shelf


@pytest.fixture
def hf_vbp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: Any) -> Ran:
        ran = run(list(arguments), capfd, monkeypatch)
        assert ran.code == 0, ran.err
        return ran

    return call


def test_prune_prints_its_results_alone_and_writes_them(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    out = tmp_path / "pruned"
    ran = hf_vbp("prune", shelf / "model", "--data", shelf / "images", "--eval-data", shelf / "labelled",
                 "--ratio", "0.5", "--output", out, "--latency", "--json")  # fmt: skip
    results = json.loads(ran.out)
    assert results == load_results(out)
    jsonschema.validate(results, schema())
    assert results["plan"]["budget"] == {"kind": "ratio", "asked": 0.5, "achieved": 0.5}
    assert results["data"]["calibration"]["images"] == 20
    assert results["data"]["calibration"]["tokens"] == 20 * 17
    assert results["evaluation"]["dense"]["images"] == results["evaluation"]["pruned"]["images"] == 10
    assert [row["way"] for row in results["receipt"]] == ["import", "remote_code"]
    assert all(row["max_abs_difference"] == 0 for row in results["receipt"])
    assert [(row["model"], row["batch"]) for row in results["latency"]] == [
        ("dense", 1), ("pruned", 1), ("dense", 16), ("pruned", 16)
    ]  # fmt: skip
    cost = results["cost"]
    speedup = cost["dense"]["parameters"] / cost["pruned"]["parameters"]
    assert results["latency"][1]["speedup"] == pytest.approx(speedup)
    assert results["command"].startswith("hf-vbp prune")
    wanted = {"config.json", "model.safetensors", "modeling_hf_vbp.py", "plan.json", "preprocessor_config.json",
              "vbp_manifest.json", "vbp_results.json"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == wanted
    # Nothing of this machine's folders is told.
    assert str(tmp_path.parent) not in json.dumps({**results, "command": ""})


def test_the_parts_give_what_the_whole_gives(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    stats, plan = tmp_path / "stats.safetensors", tmp_path / "plan.json"
    gathered = hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", stats)
    assert "vit.layers.0.mlp" in gathered.out
    assert hf_vbp("stats", "show", stats).out == gathered.out
    planned = hf_vbp("plan", shelf / "model", "--statistics", stats, "--ratio", "0.3", "--output", plan, "--json")
    assert planned.out == plan.read_text()
    assert "#####" in hf_vbp("plan", shelf / "model", "--statistics", stats, "--ratio", "0.3").out
    ran = hf_vbp("prune", shelf / "model", "--statistics", stats, "--ratio", "0.3", "--scope", "layer",
                 "--preset", "paper", "--output", tmp_path / "uniform")  # fmt: skip
    assert "not evaluated" in ran.out
    assert load_results(tmp_path / "uniform")["receipt"][1]["way"] == "stock"
    assert "auto_map" not in json.loads((tmp_path / "uniform/config.json").read_text())


def test_stats_merge_joins_two_halves(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    save_images(tmp_path / "more", each=2, seed=5)
    files = [tmp_path / name for name in ("a", "b", "c")]
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", files[0])
    hf_vbp("stats", shelf / "model", "--data", tmp_path / "more", "--output", files[1])
    assert "30 images" in hf_vbp("stats", "merge", files[0], files[1], "--output", files[2]).out


def test_inspect_lists_the_sites_and_their_shares(hf_vbp: Any, shelf: Path) -> None:
    found = json.loads(hf_vbp("inspect", shelf / "model", "--json").out)
    assert [site["intermediate_size"] for site in found["sites"]] == [48, 48, 48]
    assert 0 < sum(site["parameters"] for site in found["sites"]) < 1
    shown = hf_vbp("inspect", shelf / "model").out
    assert "all MLPs" in shown
    # One of 48 neurons is left in each MLP.
    assert found["reachable"]["ratio"] == pytest.approx(47 / 48)
    assert "At most 97.9 % of the hidden neurons can be removed: each MLP keeps 1." in " ".join(shown.split())
    for key in ("parameters", "macs"):
        share = sum(site[key] for site in found["sites"])
        assert found["reachable"][key] == pytest.approx(1 - share * 47 / 48)


def test_evaluate_against_itself_agrees_fully(hf_vbp: Any, shelf: Path) -> None:
    options = ["--data", shelf / "labelled", "--base", shelf / "model"]
    found = json.loads(hf_vbp("evaluate", shelf / "model", *options, "--json").out)
    assert found["model"]["agreement"] == 1
    assert found["model"]["kl"] == pytest.approx(0, abs=1e-12)
    assert found["model"]["top1"] == found["base"]["top1"]
    assert "95 % interval" in hf_vbp("evaluate", shelf / "model", *options).out


def test_sweep_writes_a_row_per_ratio_and_a_plot(hf_vbp: Any, shelf: Path, tmp_path: Path) -> None:
    ran = hf_vbp("sweep", shelf / "model", "--data", shelf / "images", "--eval-data", shelf / "labelled",
                 "--ratios", "0.2:0.6:0.2", "--output", tmp_path / "sweep")  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    assert [float(row["ratio"]) for row in rows] == [0, 0.2, 0.4, 0.6]
    assert [int(row["parameters"]) for row in rows] == sorted((int(row["parameters"]) for row in rows), reverse=True)
    assert (tmp_path / "sweep/sweep.png").stat().st_size > 1000
    assert "retention" in ran.out


def test_plan_tells_how_small_and_how_fast_the_model_becomes(
    hf_vbp: Any, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    stats, plan = tmp_path / "stats.safetensors", tmp_path / "plan.json"
    hf_vbp("stats", shelf / "model", "--data", shelf / "images", "--output", stats)
    ran = hf_vbp("plan", shelf / "model", "--statistics", stats, "--target-parameters", "0.8", "--output", plan,
                 "--latency", "--latency-batch", "2", "--threads", "1")  # fmt: skip
    made = json.loads(plan.read_text())
    assert made["latency"]["batch"] == 2
    assert made["latency"]["threads"] == 1
    share = made["cost"]["pruned"]["parameters"] / made["cost"]["dense"]["parameters"]
    assert made["latency"]["speedup"] == pytest.approx(1 / share, rel=1e-3)
    shown = " ".join(ran.out.split())
    for text in ("parameters", "MACs", "weights", "latency, batch 2, float32, 1 thread", "x faster",
                 "budget: parameters, 80.0 % asked, "):  # fmt: skip
        assert text in shown
    # A plan in a file is applied as it is.
    hf_vbp("prune", shelf / "model", "--statistics", stats, "--plan", plan, "--output", tmp_path / "pruned")
    results = load_results(tmp_path / "pruned")
    assert results["cost"] == made["cost"]
    assert results["plan"]["latency"] == made["latency"]
    assert (tmp_path / "pruned/plan.json").read_text() == plan.read_text()
    jsonschema.validate(results, schema())
    # A time in milliseconds.
    dense = made["cost"]["dense"]["parameters"] * 1e-3
    clock.passes = 0
    ran = hf_vbp("plan", shelf / "model", "--statistics", stats, "--target-latency", f"{0.8 * dense:.4f}ms", "--json")
    made = json.loads(ran.out)
    assert 0.77 * dense < made["latency"]["pruned_ms"] <= 0.8 * dense


def test_version_and_help(hf_vbp: Any) -> None:
    from hf_vbp import __version__

    assert hf_vbp("--version").out == f"hf-vbp {__version__}\n"
    assert "prune" in hf_vbp("--help").out
