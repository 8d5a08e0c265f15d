"""Files that the first version wrote (version 1 of the format), which every later version reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.criteria import obs
from hf_vbp.criteria.base import rank
from hf_vbp.statistics.activation_statistics import ActivationStatistics

FOLDER = Path(__file__).with_name("first_version")


@pytest.mark.parametrize("name", ["statistics", "statistics-with-curves"])
def test_files_of_the_first_version_are_read(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.safetensors"
    statistics = ActivationStatistics.load(path)
    assert (statistics.images, statistics.tokens) == (24, 120)
    assert statistics.fingerprints["weights"].startswith("62ed1a87236d")
    assert statistics.provides.names() == ["covariances", "output_metric", "token_weights"]
    tensors = load_file(path)
    for site in statistics.sites:
        assert torch.equal(site.moments.m2, tensors[f"sites.{site.index}.m2"])
        assert site.weighted is not None
        assert torch.equal(site.weighted.comoment, tensors[f"sites.{site.index}.weighted.comoment"])  # type: ignore
    statistics.save(tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_curves_of_the_first_version_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = ActivationStatistics.load(FOLDER / "statistics-with-curves.safetensors")
    options = {"metric": "gradient", "ridge": 0.001, "token_weights": "gradient"}
    assert [site.curve and dict(site.curve.options) for site in statistics.sites] == [options, options]

    def never(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the elimination was run again")

    monkeypatch.setattr(obs, "eliminate", never)
    weights = [
        SiteWeights(torch.zeros(24, 16).double(), None, torch.zeros(16, 24).double(), None) for _ in statistics.sites
    ]
    rankings = rank("obs", statistics.sites, weights)
    for ranking, site in zip(rankings, statistics.sites, strict=True):
        assert site.curve is not None
        assert torch.equal(ranking.order()[-5:].sort().values, site.curve.kept(5))
