"""A criterion and a compensation of a user, end to end: from Python, by --import, and by entry points."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.errors import ConfigurationError, StatisticsError
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.record import load_results
from tests.config.distributions import write_distribution

SOURCE = Path(__file__).with_name("extra_methods.py")
METHOD: dict[str, Any] = {
    "criterion": "unpredictable",
    "compensation": "half-shift",
    "criterion_options": {"power": 2.0},
    "compensation_options": {"share": 0.25},
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are registered until the test ends."""
    for registry in (CRITERIA, COMPENSATIONS):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    runpy.run_path(str(SOURCE))


@pytest.mark.usefixtures("registered")
def test_from_python_from_images_to_the_reloaded_model(vit: Any, batches: Any, tmp_path: Path) -> None:
    config = VBPConfig(ratio=0.5, **METHOD)
    statistics = hf_vbp.collect_statistics(vit, batches, config)
    assert statistics.provides.covariances
    statistics.save(tmp_path / "statistics.safetensors")
    statistics = hf_vbp.ActivationStatistics.load(tmp_path / "statistics.safetensors")
    plan = hf_vbp.make_plan(vit, statistics, config)
    plan = PruningPlan.load(plan.save(tmp_path / "plan.json"))
    result = hf_vbp.prune(vit, batches, config)
    assert result.plan == plan
    parts = hf_vbp.apply_plan(vit, plan, statistics)
    hf_vbp.save_checkpoint(result, tmp_path / "pruned", verify=False)
    reloaded = hf_vbp.from_pretrained(tmp_path / "pruned").state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, reloaded[name]), name
        assert torch.equal(tensor, parts.state_dict()[name]), name
    # Independent of the class: the kept neurons are those with the largest diagonal of the inverse, reversed.
    for site, kept in zip(statistics.sites, plan.sites, strict=True):
        covariance = site.moments.covariance
        covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
        unpredicted = 1 / torch.linalg.inv(covariance).diagonal()
        assert kept.kept == tuple(sorted(unpredicted.argsort()[48 - kept.width :].tolist()))


@pytest.mark.usefixtures("registered")
def test_its_statistics_and_options_are_checked(vit: Any, batches: Any) -> None:
    variances = hf_vbp.collect_statistics(vit, batches, VBPConfig.preset("paper"))
    with pytest.raises(StatisticsError, match="criterion 'unpredictable' needs covariances"):
        hf_vbp.make_plan(vit, variances, VBPConfig(ratio=0.5, **METHOD))
    with pytest.raises(ConfigurationError, match="Unknown option 'powr' of criterion 'unpredictable'; expected power"):
        VBPConfig(criterion="unpredictable", criterion_options={"powr": 2})
    with pytest.raises(ConfigurationError, match="of criterion 'unpredictable': power must be above 0"):
        VBPConfig(criterion="unpredictable", criterion_options={"power": 0})
    for site in hf_vbp.find_sites(vit):
        site.fc2.register_parameter("bias", None)
    with pytest.raises(ConfigurationError, match="no bias, so compensation 'half-shift' has nowhere"):
        hf_vbp.prune(vit, batches, VBPConfig(ratio=0.5, **METHOD))


def hf_vbp_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(hf_vbp.__file__).parents[1])
    path = os.pathsep.join([*environment.pop("PYTHONPATH", "").split(), root])
    return subprocess.run(
        [sys.executable, "-m", "hf_vbp", *arguments],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


CHOICE = ("--criterion", "unpredictable", "--criterion-option", "power=2",
          "--compensation", "half-shift", "--compensation-option", "share=0.25")  # fmt: skip


@pytest.mark.processes
def test_by_import_on_the_command_line(tmp_path: Path) -> None:
    shutil.copy(SOURCE, tmp_path / "extra_methods.py")
    budget = ("--data", "sample", "--limit", "64", "--ratio", "0.4", "--output", "pruned", "--quiet")
    ran = hf_vbp_in(tmp_path, "prune", "sample", *budget, *CHOICE, "--import", "extra_methods")
    assert ran.returncode == 0, ran.stderr
    results = load_results(tmp_path / "pruned")
    assert (results["plan"]["criterion"], results["plan"]["compensation"]) == ("unpredictable", "half-shift")
    assert results["plan"]["options"] == {"criterion": {"power": 2}, "compensation": {"share": 0.25}}
    # The processes that verified the checkpoint had neither module nor entry point.
    assert [row["max_abs_difference"] for row in results["receipt"]] == [0.0, 0.0]


@pytest.mark.processes
def test_by_entry_points_on_the_command_line(tmp_path: Path) -> None:
    installed = tmp_path / "site"
    write_distribution(installed, "hf_vbp.criteria", "unpredictable", "extra_methods")
    with (installed / "fake-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("[hf_vbp.compensation]\nhalf-shift = extra_methods:HalfShift\n")
    shutil.copy(SOURCE, installed / "extra_methods.py")
    model = hf_vbp.from_pretrained(hf_vbp.sample_model_path())
    statistics = hf_vbp.collect_statistics(model, hf_vbp.load_images("sample", model=model, limit=64))
    statistics.save(tmp_path / "statistics.safetensors")
    arguments = ("plan", "sample", "--statistics", "statistics.safetensors", "--ratio", "0.4", "--output", "plan.json")
    ran = hf_vbp_in(tmp_path, *arguments, *CHOICE, PYTHONPATH=str(installed))
    assert ran.returncode == 0, ran.stderr
    assert '"criterion": "unpredictable"' in (tmp_path / "plan.json").read_text()
    without = hf_vbp_in(tmp_path, *arguments, *CHOICE)
    assert without.returncode == 2
    assert "Unknown criterion 'unpredictable'; expected one of magnitude, obs" in " ".join(without.stderr.split())
