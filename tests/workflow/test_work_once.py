"""One ``prune`` does each kind of expensive work once."""

from pathlib import Path
from typing import Any

import pytest

from hf_vbp.adapters.identity import sites_fingerprint
from hf_vbp.adapters.prunable import check_finite_weights
from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.adapters.structure import check_structure
from hf_vbp.adapters.table import TableAdapter
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.compensation.linear import Linear
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.criteria.elimination import eliminate
from hf_vbp.pruning import latency_search
from hf_vbp.workflow.prune import prune
from hf_vbp.workflow.prune_command import PruneRequest, run_prune
from hf_vbp.workflow.requests import DataRequest
from hf_vbp.workflow.sweep import sweep
from tests.conftest import make_model
from tests.costs.clock import Clock
from tests.workflow.counting import Calls
from tests.workflow.finetune.helpers import Said

MLPS = 5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls(monkeypatch)
    calls.of_method(Linear, "fit", "compensation")
    calls.of_method(SiteWeights, "of", "float64 copy")
    calls.of_method(TableAdapter, "find_sites", "site search")
    calls.of_function(check_finite_weights, "finiteness check")
    calls.of_function(check_structure, "structure check")
    calls.of_function(sites_fingerprint, "hash of all weights")
    calls.of_function(eliminate, "elimination")
    return calls


@pytest.mark.parametrize("given", ["images", "statistics"])
def test_one_prune_does_each_kind_of_work_once(given: str, calls: Calls, batches: Any) -> None:
    model = make_model("vit", num_hidden_layers=MLPS)
    config = VBPConfig(ratio=0.5)
    if given == "images":
        prune(model, batches, config)
    else:
        statistics = collect_statistics(model, batches, config)
        calls.clear()
        prune(model, None, config, statistics=statistics)
    assert calls == {
        "compensation": MLPS,
        "float64 copy": MLPS,
        "elimination": MLPS,
        "site search": 1,
        "finiteness check": 1,
        "structure check": 1,
        "hash of all weights": 1,
    }


def test_a_sweep_ranks_once_and_fits_once_per_ratio(calls: Calls, batches: Any) -> None:
    model = make_model("vit", num_hidden_layers=MLPS)
    sweep(model, batches, ratios=[0.2, 0.4, 0.6], eval_data=batches)
    assert calls == {
        "compensation": 3 * MLPS,
        "float64 copy": MLPS,
        "elimination": MLPS,
        "site search": 1,
        "finiteness check": 1,
        "structure check": 1,
        "hash of all weights": 1,
    }


def test_the_chosen_levers_are_fitted_once(calls: Calls, batches: Any) -> None:
    model = make_model("vit", num_hidden_layers=MLPS)
    statistics = collect_statistics(model, batches)
    calls.clear()
    result = prune(model, batches, VBPConfig(target_macs=0.8), statistics=statistics)
    measured = result.statistics.measurements_of(result.plan.config.method)
    points = 0 if measured is None else len(measured.points)
    assert points > 1
    assert result.plan.merged_tokens
    # Each candidate is fitted to be measured, and the chosen one is not fitted again.
    assert calls["compensation"] == points * MLPS
    assert calls["elimination"] == MLPS


@pytest.mark.parametrize("command", [False, True])
def test_a_latency_budget_measures_the_minimum_widths_once(
    command: bool, batches: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    measured: list[list[int]] = []
    measure = latency_search.latency_of_widths

    def counted(prepared: Any, widths: Any, *arguments: Any, **options: Any) -> Any:
        measured.append(list(widths))
        return measure(prepared, widths, *arguments, **options)

    monkeypatch.setattr(latency_search, "latency_of_widths", counted)
    if command:
        data = DataRequest("sample")
        config = VBPConfig.preset("paper", target_latency=0.8)
        run_prune(PruneRequest("sample", tmp_path / "out", config=config, data=data), Said())
    else:
        prune(make_model(), batches, VBPConfig.preset("paper", target_latency=0.8))
    assert len(measured) > 1
    assert len(set(measured[0])) == 1
    assert len([widths for widths in measured if sum(widths) <= sum(measured[0])]) == 1
