"""Loggers of ``training.report_to``."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.cli.finetune import finetune
from hf_vbp.errors import ConfigurationError
from hf_vbp.workflow.finetune.fields import write_yaml
from hf_vbp.workflow.finetune.recipe import make_recipe
from hf_vbp.workflow.finetune.run import run_finetune
from tests.workflow.finetune.helpers import Said, make_work, recipe_for

LOSSES = ("loss", "hard_loss", "soft_loss")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("hf_vbp.checkpoint.saving.take_receipt", lambda model, folder, **_: Receipt(Path(folder)))
    return make_work(tmp_path)


def test_tensorboard_shows_the_parts_of_the_loss(work: Path) -> None:
    reason = "tensorboard is not installed (pip install tensorboard)"
    pytest.importorskip("tensorboard", reason=reason)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = run_finetune(make_recipe(recipe_for(work, report_to="tensorboard", num_train_epochs=1)), Said())
    (file,) = (work / "out-run" / "runs").rglob("events.out.*")
    events = EventAccumulator(str(file))
    events.Reload()
    seen = {name: [event.value for event in events.Scalars(f"train/{name}")] for name in LOSSES}
    assert [len(values) for values in seen.values()] == [2, 2, 2]
    (epoch,) = results["finetuning"]["per_epoch"]
    for name, values in seen.items():
        assert sum(values) / 2 == pytest.approx(epoch[name], rel=1e-5)
    assert events.Scalars("eval/top1")[-1].value == pytest.approx(epoch["top1"])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed (pip install trackio)")
def test_trackio_shows_the_parts_of_the_loss_and_does_not_change_the_output(work: Path) -> None:
    settings = recipe_for(work, report_to="trackio", project="pets", num_train_epochs=1)
    (work / "recipe.yaml").write_text(write_yaml(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "hf_vbp", "finetune", str(work / "recipe.yaml"), "--json"],
        env={**os.environ, "TRACKIO_DIR": str(work / "trackio"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (epoch,) = json.loads(done.stdout)["finetuning"]["per_epoch"]
    with closing(sqlite3.connect(work / "trackio" / "pets.db")) as database:
        logged = [json.loads(row[0]) for row in database.execute("SELECT metrics FROM metrics ORDER BY id")]
    for name in LOSSES:
        values = [entry[f"train/{name}"] for entry in logged if f"train/{name}" in entry]
        assert sum(values) / len(values) == pytest.approx(epoch[name])


def test_unknown_and_uninstalled_reporters_are_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = recipe_for(Path("nowhere"), report_to="tensorbord")
    with pytest.raises(ConfigurationError, match=r"tensorbord is not supported, only .*tensorboard"):
        make_recipe(recipe).arguments()
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    recipe = recipe_for(Path("nowhere"), report_to="tensorboard")
    with pytest.raises(ConfigurationError, match="requires tensorboard to be installed"):
        make_recipe(recipe).arguments()


def test_output_of_a_reporter_does_not_mix_with_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        print("* a project was made")
        return {"schema_version": 1}

    monkeypatch.setattr("hf_vbp.workflow.finetune.run.run_finetune", run)
    path = tmp_path / "recipe.yaml"
    path.write_text(write_yaml(recipe_for(tmp_path)), encoding="utf-8")
    finetune(recipe=[str(path)], json=True, quiet=True)
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"schema_version": 1}
    assert "a project was made" in shown.err
