"""Elimination curves that are kept with the statistics, so that nobody pays twice."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_vbp.workflow.pruning import plan_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hf_vbp
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.obs import DEFAULT_RIDGE
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import images, in_batches
from tests.conftest import make_model

CONFIG = VBPConfig(ratio=0.5)


@pytest.fixture
def statistics(vit: Any) -> ActivationStatistics:
    return collect_statistics(vit, in_batches(images(40), 8), **CONFIG.needs(vit))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every elimination of a site that is run."""
    made: list[int] = []
    # The package of the criteria gives the name to the function.
    module = importlib.import_module("hf_vbp.criteria.obs")
    eliminate = module.eliminate

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        return eliminate(*arguments, **options)

    monkeypatch.setattr(module, "eliminate", counted)
    return made


def test_kept_curves_give_the_same_plan_without_another_run(
    vit: Any, statistics: ActivationStatistics, runs: list[int], tmp_path: Path
) -> None:
    expected = plan_for(vit, statistics, CONFIG)
    assert len(runs) == 3
    hf_vbp.with_curves(vit, statistics).save(tmp_path / "statistics.safetensors")
    assert len(runs) == 6
    assert statistics.sites[0].curve is None
    loaded = ActivationStatistics.load(tmp_path / "statistics.safetensors")
    assert plan_for(vit, loaded, CONFIG) == expected
    assert hf_vbp.prune(vit, (), VBPConfig(ratio=0.3), statistics=loaded).plan.widths
    assert len(runs) == 6


@pytest.mark.parametrize("option", [{"ridge": 0.1}, {"metric": "identity"}])
def test_curves_of_other_options_are_not_used(
    vit: Any, statistics: ActivationStatistics, runs: list[int], option: dict[str, Any]
) -> None:
    held = hf_vbp.with_curves(vit, statistics)
    config = VBPConfig(ratio=0.5, criterion_options=option)
    assert plan_for(vit, held, config) == plan_for(vit, statistics, config)
    assert len(runs) == 9


def test_joined_statistics_have_no_curves(vit: Any, statistics: ActivationStatistics) -> None:
    other = collect_statistics(vit, in_batches(images(40, seed=8), 8), **CONFIG.needs(vit))
    joined = hf_vbp.with_curves(vit, statistics).merge(hf_vbp.with_curves(vit, other))
    assert joined.curves({"metric": "gradient", "ridge": DEFAULT_RIDGE}) is None
    assert "curves" not in joined.fingerprints


def test_curves_need_covariances_and_this_model(vit: Any, statistics: ActivationStatistics) -> None:
    with pytest.raises(StatisticsMismatchError, match="weights differ"):
        hf_vbp.with_curves(make_model("vit", seed=5), statistics)
    diagonal = collect_statistics(vit, in_batches(images(40), 8))
    with pytest.raises(StatisticsError, match="variances only"):
        hf_vbp.with_curves(vit, diagonal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.zeros(48, dtype=torch.int64)}, r"sites\.1\.curve.*permutation"),
        ({"order": torch.arange(5), "costs": torch.ones(5, dtype=torch.float64)}, "5 neurons, the site has 48"),
        ({"costs": -torch.ones(48, dtype=torch.float64)}, "0 or more"),
    ],
)
def test_a_damaged_curve_is_refused(
    vit: Any, statistics: ActivationStatistics, tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "statistics.safetensors"
    hf_vbp.with_curves(vit, statistics).save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors.update({f"sites.1.curve.{name}": tensor for name, tensor in change.items()})
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(StatisticsError, match=message):
        ActivationStatistics.load(path)
