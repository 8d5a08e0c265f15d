"""``hf-vbp sweep``: several methods, a table that an interrupted sweep continues, a plot that shows the curve."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.cli import sweep as sweep_cli
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import ConfigurationError, OutputError
from hf_vbp.results.checks import find_problem
from hf_vbp.results.sweep import SweepResults
from hf_vbp.workflow import sweep as sweep_module
from hf_vbp.workflow import sweep_command, sweep_kept, sweep_plot
from hf_vbp.workflow.sweep_arguments import parse_ratios
from hf_vbp.workflow.sweep_table import SweepTable, method_columns
from tests.cli.helpers import run, save_images, save_tiny
from tests.costs.clock import Clock


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    save_tiny(tmp_path / "model")
    save_images(tmp_path / "images", each=2)
    monkeypatch.chdir(tmp_path)
    options = ["--criterion", "variance", "--compensation", "linear", "-q"]
    assert (
        run(["stats", "model", "--data", "images", "-o", "stats.safetensors", *options], capfd, monkeypatch).code == 0
    )
    return tmp_path


@pytest.fixture
def sweep(shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*options: Any, model: str = "model", quiet: bool = False) -> Any:
        command = ["sweep", model, "--statistics", "stats.safetensors", "--eval-data", "images", "-o", "out"]
        return run([*command, *options, *(["-q"] if quiet else [])], capfd, monkeypatch)

    return call


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "out/sweep.csv").read_text().splitlines()))


METHODS = ["--method", "variance+mean", "--method", "variance+linear", "--method", "paper"]


def test_several_methods_agreement_kl_and_latency(sweep: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(lambda model, now: model.num_parameters() * 1e-6, noise=0.02).install(monkeypatch)
    ran = sweep("--ratios", "0.25,0.5", *METHODS, "--latency")
    assert ran.code == 0, ran.err
    rows = rows_of(shelf)
    # The paper's method is variance with mean, and is not computed twice.
    assert [(row["ratio"], row["criterion"], row["compensation"]) for row in rows] == [
        ("0.0", "", ""),
        ("0.25", "variance", "mean"),
        ("0.5", "variance", "mean"),
        ("0.25", "variance", "linear"),
        ("0.5", "variance", "linear"),
    ]
    parameters = int(rows[0]["parameters"])
    for row in rows[1:]:
        assert float(row["speedup_low"]) <= float(row["speedup"]) <= float(row["speedup_high"])
        assert float(row["speedup"]) == pytest.approx(parameters / int(row["parameters"]), rel=0.03)
        assert 0 <= float(row["agreement"]) <= 1
        assert float(row["kl"]) > 0
    for column in ("variance + linear, no training", "agreement", "KL", "speed-up", "retention"):
        assert column in ran.out


def test_each_method_has_a_table_that_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    figures = {"parameters": 865_700_000, "macs": 175_600_000_000, "top1": 1.0, "agreement": 1.0, "kl": 0.0}
    dense: dict[str, Any] = {"ratio": 0.0, **figures, "latency_ms": 1234.56}
    rows = [dense]
    for name in ("mean", "linear"):
        speed = {"speedup": 10.25, "speedup_low": 10.15, "speedup_high": 10.35}
        rows += [{**dense, "criterion": "variance", "compensation": name, "ratio": r, **speed} for r in (0.25, 0.5)]
    sweep_cli.show(rows, [Path("sweep.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    titles = [line.strip() for line in lines if line.strip().startswith(("variance", "Latency"))]
    assert titles == ["variance + mean, no training", "variance + linear, no training", "Latency"]
    # One line for each model: no figure is folded.
    assert sum("865.70 M" in line and "175.60 G" in line and "100.0 %" in line for line in lines) == 6
    assert sum("10.25x (10.15 to 10.35)" in line and "1234.56" in line for line in lines) == 4


def test_the_table_of_damage_fits_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    dense: dict[str, Any] = {"ratio": 0.0, "parameters": 10, "macs": 10, "top1": 0.9, "ece": 0.0312}
    lost = "golden retriever 100.0 to 62.5 % (16); Egyptian cat 90.0 to 80.0 % (10)"
    pruned = {**dense, "criterion": "obs", "compensation": "linear", "ratio": 0.5, "ece": 0.0751, "loses_most": lost}
    sweep_cli.show([dense, pruned], [Path("sweep.csv")])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "7.5 %" in shown
    assert "3.1 %" in shown
    assert "golden retriever" in shown


def test_latencies_of_compiled_models_are_not_those_of_others(tmp_path: Path) -> None:
    config = VBPConfig(ratio=0.5)
    table = SweepTable(tmp_path / "sweep.csv")
    figures = {"latency_ms": 2.0, "latency_batch": 1, "latency_dtype": "float32", "latency_threads": 1, "images": 2}
    named = {name: "a" for name in ("model", "weights", "statistics", "evaluation")}
    cost = {"parameters": 10, "macs": 10, "bytes": 40}
    table.add([{**method_columns(config), **figures, **cost, **named, "latency_compiled": True}])
    read = SweepTable.load(table.path)
    assert read.rows[0]["latency_compiled"] is True
    assert read.find(config, LatencyOptions(compile=True)) is not None
    assert read.find(config, LatencyOptions()) is None
    assert read.find(config, None) is not None


def test_an_interrupted_sweep_continues(sweep: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_command, "MODELS_IN_MEMORY", 1)
    monkeypatch.setattr(sweep_module, "MODELS_IN_MEMORY", 1)
    evaluate, evaluated = sweep_module.evaluate_models, []

    def interrupted(models: Any, *arguments: Any, **options: Any) -> Any:
        evaluated.append(len(models) - 1)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluate(models, *arguments, **options)

    monkeypatch.setattr(sweep_module, "evaluate_models", interrupted)
    assert sweep("--ratios", "0.2,0.4,0.6").code == 130
    kept = rows_of(shelf)
    assert [row["ratio"] for row in kept] == ["0.0", "0.2", "0.4"]
    ran = sweep("--ratios", "0.2,0.4,0.6")
    assert ran.code == 0, ran.err
    assert "2 of 3 rows are kept" in ran.err
    assert len(evaluated) == 4
    assert rows_of(shelf)[:3] == kept
    assert [row["ratio"] for row in rows_of(shelf)] == ["0.0", "0.2", "0.4", "0.6"]
    # Another method of the same model is added, and the rows of the first are kept.
    assert sweep("--ratios", "0.2", "--method", "variance+mean").code == 0
    assert len(rows_of(shelf)) == 5
    assert len(evaluated) == 5
    # The file of typed rows has the figures of each class of all of them, those before the interruption too.
    results = json.loads((shelf / "out/sweep.json").read_text())
    assert find_problem(results, SweepResults) is None
    assert [row.get("compensation") for row in results["rows"]] == [None, "linear", "linear", "linear", "mean"]
    for row in results["rows"]:
        images = sum(one["images"] for one in row["classes"].values())
        assert images == row["images"]
        right = sum(one["images"] * one["top1"] for one in row["classes"].values())
        assert right / images == pytest.approx(row["top1"])
    # All rows exist: nothing is computed. The tables show both methods.
    ran = sweep("--ratios", "0.2")
    assert all(f"+ {name}, no training" in ran.out for name in ("linear", "mean"))
    ran = sweep("--ratios", "0.2,0.6", "--json")
    assert len(evaluated) == 5
    assert [row["ratio"] for row in json.loads(ran.out)] == [0, 0.2, 0.6]


def test_an_interrupted_sweep_does_not_repeat_the_pass_over_the_images(
    shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", "model", "--data", "images", "--eval-data", "images", "-o", "out", "--ratios", "0.25,0.5"]
    passes: list[Any] = []
    gather = sweep_module.collect_statistics

    def counted(prepared: Any, data: Any, requires: Any, **options: Any) -> Any:
        passes.append(requires)
        return gather(prepared, data, requires, **options)

    def dying(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_module, "collect_statistics", counted)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_command, "sweep_rows", dying)
        assert run([*command, *METHODS], capfd, monkeypatch).code != 0
    assert not (shelf / "out/sweep.csv").exists()
    ran = run([*command, *METHODS], capfd, monkeypatch)
    assert (ran.code, len(passes)) == (0, 1), ran.err
    assert "The statistics are those of the earlier run, out/statistics.safetensors" in ran.err
    rows = rows_of(shelf)
    # The same as of statistics that were never in a file.
    fresh = [*command[:-4], "-o", "fresh", *command[-2:], *METHODS]
    assert run(fresh, capfd, monkeypatch).code == 0
    assert list(csv.DictReader((shelf / "fresh/sweep.csv").read_text().splitlines())) == rows
    # What is lacking is added: the saliency in a pass of its own, the rest by a new one.
    assert run([*command, "--method", "snip+linear"], capfd, monkeypatch).code == 0
    assert len(passes) == 2
    assert run([*command, "--method", "obs+linear"], capfd, monkeypatch).code == 0
    assert len(passes) == 3
    assert passes[-1].output_metric
    assert run([*command, "--method", "obs+linear"], capfd, monkeypatch).code == 0
    assert len(passes) == 3
    assert run(["stats", "show", "out/statistics.safetensors"], capfd, monkeypatch).code == 0


def test_kept_statistics_of_something_else_are_not_used_or_replaced(
    shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(shelf / "other", seed=9)
    save_images(shelf / "images2", each=1, seed=3)

    def sweep(model: str, data: str, *options: str) -> Any:
        command = ["sweep", model, "--data", data, "--eval-data", "images", "-o", "out", "--ratios", "0.5"]
        return run([*command, "--preset", "paper", *options], capfd, monkeypatch)

    assert sweep("model", "images").code == 0
    kept = shelf / "out/statistics.safetensors"
    for name in ("sweep.csv", "sweep.json", "sweep.png"):
        (shelf / "out" / name).unlink(missing_ok=True)
    before = kept.read_bytes()
    for model, data, said in (("model", "images2", "other calibration images"), ("other", "images", "other weights")):
        ran = sweep(model, data)
        assert ran.code == 2
        assert f"out/statistics.safetensors {'holds' if 'images' in said else 'would be replaced'}" in ran.err
        assert "Choose another output or pass --overwrite." in ran.err
        assert kept.read_bytes() == before
    kept.write_text("notes of the user")
    assert sweep("model", "images").code == 2
    assert kept.read_text() == "notes of the user"
    assert sweep("model", "images2", "--overwrite").code == 0
    assert kept.read_bytes() != before


def test_statistics_that_do_not_fit_on_the_disk_are_not_kept(
    shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, required: int) -> None:
        assert required > 3 * 48 * 8
        raise OutputError(f"{path} needs more.")

    monkeypatch.setattr(sweep_kept, "check_file_space", full)
    command = ["sweep", "model", "--data", "images", "--eval-data", "images", "-o", "out", "--ratios", "0.5", "-q"]
    ran = run(command, capfd, monkeypatch)
    assert ran.code == 0
    assert "Warning: The statistics are not kept, so a sweep that is interrupted repeats the pass." in ran.err
    assert sorted(path.name for path in (shelf / "out").iterdir() if path.suffix == ".safetensors") == []


def test_a_noisy_machine_leaves_latencies_out_of_every_command(
    sweep: Any, shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(lambda model, now: 1e-3, noise=3.0).install(monkeypatch)
    method = ["--criterion", "variance", "--compensation", "linear", "--ratio", "0.5", "--latency"]
    plan = ["plan", "model", "--statistics", "stats.safetensors", *method, "-o", "plan.json"]
    prune = ["prune", "model", "--statistics", "stats.safetensors", *method, "-o", "pruned"]
    for ran in (
        run(plan, capfd, monkeypatch),
        run([*prune, "-q"], capfd, monkeypatch),
        sweep("--ratios", "0.5", *METHODS[:2], "--latency", quiet=True),
    ):
        assert ran.code == 0, ran.err
        assert re.search(r"Warning: The latency .* is left out. This machine is too noisy", " ".join(ran.err.split()))
    assert "latency" not in json.loads((shelf / "plan.json").read_text())
    assert json.loads((shelf / "pruned/vbp_results.json").read_text())["latency"] == []
    assert {row["latency_ms"] for row in rows_of(shelf)} == {""}


def test_the_sweep_of_another_model_is_never_replaced_without_being_asked(
    sweep: Any, shelf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep("--ratios", "0.5").code == 0
    before = (shelf / "out/sweep.csv").read_bytes()
    save_tiny(shelf / "other", seed=3)
    ran = sweep("--ratios", "0.5", model="other")
    assert ran.code == 2
    assert "holds a sweep of model with another model" in " ".join(ran.err.split())
    save_images(shelf / "more", each=1, seed=4)
    ran = run(["sweep", "model", "--data", "more", "--eval-data", "images", "-o", "out", "-q"], capfd, monkeypatch)
    assert ran.code == 2
    assert "with other statistics" in " ".join(ran.err.split())
    assert (shelf / "out/sweep.csv").read_bytes() == before
    assert sweep("--ratios", "0.25", "--overwrite").code == 0
    assert [row["ratio"] for row in rows_of(shelf)] == ["0.0", "0.25"]


def test_a_missing_matplotlib_is_reported_before_the_work(
    sweep: Any, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_plot, "find_spec", lambda name: None)
    ran = sweep("--ratios", "0.5")
    assert ran.code == 0
    said = " ".join(ran.err.split())
    assert said.index("pip install 'hf-vbp[plot]'") < said.index("Evaluation of 1 model")
    assert sorted(path.name for path in (shelf / "out").iterdir()) == ["sweep.csv", "sweep.json"]


def test_impossible_ratios_and_methods_are_refused_before_the_images_are_read(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_command, "sweep_statistics", None)
    for options, says in (
        (["--ratios", "0.2,0.9", "--minimum-width", "20"], "hidden neurons: 0.9 cannot be reached"),
        (["--method", "variance"], "--method takes criterion+compensation, or one of best, paper"),
        (["--method", "paper", "--criterion-option", "metric=identity", "--criterion", "obs"], "belong to one method"),
    ):
        ran = sweep(*options)
        assert ran.code == 2
        assert says in " ".join(ran.err.split())


@pytest.mark.parametrize("text", ["0.1:0.9:1e-9", "0.1:0.9:0", "nan", "0.1:inf:0.1", "0.1:0.2", "", "0.5,1", "a"])
def test_bad_ratios_end_at_once(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--ratios"):
        parse_ratios(text)


def test_the_axis_shows_the_curve() -> None:
    low, high = sweep_plot.limits([0.70, 0.72, 0.71])
    assert 0.68 < low < 0.70
    assert 0.72 < high < 0.74
    assert sweep_plot.limits([0.0, 1.0]) == (-0.01, 1.01)


def test_the_plot_has_a_curve_per_method_and_the_dense_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.figure

    made: list[Any] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: made.append(figure))
    rows = [{"ratio": 0.0, "top1": 0.8}]
    for name in ("mean", "linear"):
        for ratio in (0.2, 0.4):
            method = {"ratio": ratio, "criterion": "variance", "compensation": name, "scope": "global"}
            rows.append({**method, "top1": 0.8 - ratio / 10})  # type: ignore[dict-item]
    sweep_plot.draw(rows, "a model")
    (axes,) = made[0].axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["dense", "variance + mean, global", "variance + linear, global"]
    assert axes.get_ylim()[0] > 0.7


def test_the_axis_of_the_plot_covers_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.figure

    made: list[Any] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: made.append(figure))
    method = {"criterion": "variance", "compensation": "mean", "scope": "global"}
    row = {**method, "ratio": 0.2, "top1": 0.7, "top1_low": 0.5, "top1_high": 0.85}
    sweep_plot.draw([{"ratio": 0.0, "top1": 0.75}, row], "a model")
    low, high = made[0].axes[0].get_ylim()
    assert low < 0.5
    assert high > 0.85
