"""What is measured of merged tokens is kept in the file of the statistics, from which later plans use both levers."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_vbp.calibration.measured_distance import DistanceToDense
from hf_vbp.modeling.modeling_hf_vbp import merged_tokens
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow import sweep as sweep_module
from tests.cli.helpers import Ran, run, save_images, save_tiny
from tests.costs.clock import Clock

METHOD = ["--criterion", "variance", "--compensation", "linear"]
FILE = Path("st.safetensors")


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    save_tiny(tmp_path / "model")
    save_images(tmp_path / "images", each=2)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ran:
        ran = run([arguments[0], "model", *arguments[1:], *METHOD], capfd, monkeypatch)
        assert ran.code == 0, ran.err
        return ran

    return call


def measurements(file: Path) -> list[Any]:
    return list(ActivationStatistics.load(file).fingerprints.get("lever_measurements", []))


def test_prune_keeps_what_it_measured_for_later_plans(command: Any) -> None:
    command("stats", "--data", "images", "-o", str(FILE))
    plan = ["plan", "--statistics", str(FILE), "--target-macs", "0.8", "-o"]
    ran = command(*plan, "before.json")
    assert "Warning: The statistics hold no measurements of merged tokens" in ran.err
    assert "LeverWarning" not in ran.err
    assert ".py" not in ran.err
    before = load_file(FILE)
    ran = command("prune", "--statistics", str(FILE), "--data", "images", "--target-macs", "0.8", "-o", "out")
    assert f"The measurements of merged tokens are kept in {FILE}" in ran.err
    assert "Warning" not in ran.err
    after = load_file(FILE)
    assert before.keys() == after.keys()
    assert all(value.equal(after[name]) for name, value in before.items())
    assert len(measurements(FILE)[0]["points"]) > 2
    ran = command(*plan, "after.json")
    assert "Warning" not in ran.err
    first, second = (PruningPlan.load(Path(name)) for name in ("before.json", "after.json"))
    assert not any(first.merged_tokens)
    assert any(second.merged_tokens)
    assert first.statistics == second.statistics


def test_a_file_that_cannot_be_replaced_is_reported(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_vbp.errors import StatisticsError

    command("stats", "--data", "images", "-o", str(FILE))

    def full(self: Any, path: Any) -> None:
        raise StatisticsError(f"Cannot write {path}: no space.")

    monkeypatch.setattr(ActivationStatistics, "save", full)
    ran = command("prune", "--statistics", str(FILE), "--data", "images", "--target-macs", "0.8", "-o", "out")
    assert "Warning: The measurements of merged tokens are not kept with the statistics. Cannot write st" in ran.err


def test_the_latency_of_a_plan_is_that_with_its_merged_tokens(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command("stats", "--data", "images", "-o", str(FILE))
    Clock(lambda model, now: 1e-3 if any(merged_tokens(model)) else 2e-3).install(monkeypatch)
    command("plan", "--statistics", str(FILE), "--ratio", "0.5", "--merge-tokens", "3", "--latency", "-o", "p.json")
    assert PruningPlan.load(Path("p.json")).latency["speedup"] == pytest.approx(2)


@pytest.mark.parametrize("given", [False, True])
def test_a_resumed_sweep_does_not_measure_again(
    command: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    source = ["--data", "images"]
    if given:
        command("stats", *source, "-o", str(FILE))
        source += ["--statistics", str(FILE)]
    counted: list[Any] = []
    of = DistanceToDense.of

    def counting(self: Any, *arguments: Any) -> float:
        counted.append(arguments)
        return of(self, *arguments)

    monkeypatch.setattr(DistanceToDense, "of", counting)
    sweep = ["sweep", *source, "--eval-data", "images", "--macs", "0.8", "-o", "out"]
    with monkeypatch.context() as patch:

        def interrupted(*arguments: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(sweep_module, "evaluate_models", interrupted)
        assert run(["sweep", "model", *sweep[1:], *METHOD], capfd, monkeypatch).code == 130
    number = len(counted)
    assert number > 2
    command(*sweep)
    assert len(counted) == number
    assert len(measurements(FILE if given else Path("out/statistics.safetensors"))[0]["points"]) == number
