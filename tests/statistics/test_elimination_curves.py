"""Elimination curves that are stored with the statistics and used again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hf_vbp
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria import obs
from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.pruning.make_plan import make_plan, precompute_scores
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from tests.calibration.helpers import DIAGONAL, images, in_batches
from tests.conftest import make_model

CONFIG = VBPConfig(ratio=0.5)


@pytest.fixture
def statistics(vit: Any) -> ActivationStatistics:
    return collect_statistics(vit, in_batches(images(40), 8), CONFIG)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every elimination of a site that is run."""
    made: list[int] = []
    eliminate = obs.eliminate

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        return eliminate(*arguments, **options)

    monkeypatch.setattr(obs, "eliminate", counted)
    return made


def test_kept_curves_give_the_same_plan_without_another_run(
    vit: Any, statistics: ActivationStatistics, runs: list[int], tmp_path: Path
) -> None:
    expected = make_plan(vit, statistics, CONFIG)
    assert len(runs) == 3
    precompute_scores(vit, statistics).save(tmp_path / "statistics.safetensors")
    assert len(runs) == 6
    assert statistics.sites[0].curve is None
    loaded = ActivationStatistics.load(tmp_path / "statistics.safetensors")
    assert make_plan(vit, loaded, CONFIG) == expected
    assert hf_vbp.prune(vit, (), VBPConfig(ratio=0.3), statistics=loaded).plan.widths
    assert len(runs) == 6


@pytest.mark.parametrize("option", [{"ridge": 0.1}, {"metric": "identity"}])
def test_curves_of_other_options_are_not_used(
    vit: Any, statistics: ActivationStatistics, runs: list[int], option: dict[str, Any]
) -> None:
    held = precompute_scores(vit, statistics)
    config = VBPConfig(ratio=0.5, criterion_options=option)
    assert make_plan(vit, held, config) == make_plan(vit, statistics, config)
    assert len(runs) == 9


def test_merged_statistics_have_no_curves(vit: Any, statistics: ActivationStatistics) -> None:
    other = collect_statistics(vit, in_batches(images(40, seed=8), 8), CONFIG)
    joined = precompute_scores(vit, statistics).merge(precompute_scores(vit, other))
    assert all(site.curve is None for site in joined.sites)


def test_curves_need_covariances_and_this_model(vit: Any, statistics: ActivationStatistics) -> None:
    with pytest.raises(StatisticsMismatchError, match="weights differ"):
        precompute_scores(make_model("vit", seed=5), statistics)
    diagonal = collect_statistics(vit, in_batches(images(40), 8), DIAGONAL)
    with pytest.raises(StatisticsError, match="needs covariances"):
        precompute_scores(vit, diagonal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": torch.zeros(48, dtype=torch.int64)}, r"sites\.1\.curve.*permutation"),
        (
            {"order": torch.arange(5), "costs": torch.ones(5, dtype=torch.float64)},
            r"order of .* shape \(48\), got .*\(5,\)",
        ),
        ({"costs": -torch.ones(48, dtype=torch.float64)}, "0 or more"),
    ],
)
def test_a_damaged_curve_is_refused(
    vit: Any, statistics: ActivationStatistics, tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    path = tmp_path / "statistics.safetensors"
    precompute_scores(vit, statistics).save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors.update({f"sites.1.curve.{name}": tensor for name, tensor in change.items()})
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(StatisticsError, match=message):
        ActivationStatistics.load(path)
