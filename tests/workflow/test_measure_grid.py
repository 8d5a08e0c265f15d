"""The measured grid, against the measurements of single models."""

from typing import Any

import pytest

from hf_vbp.adapters.prepared import prepare
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.measured_distance import DistanceToDense
from hf_vbp.calibration.source import Source
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import LatencyError
from hf_vbp.pruning.apply_plan import apply_plan
from hf_vbp.pruning.make_plan import make_plan, rank_sites
from hf_vbp.workflow import measure_grid as module
from hf_vbp.workflow.measure_grid import measure_grid


def test_the_points_are_those_of_single_models(vit: Any, batches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, config, source = prepare(vit), VBPConfig(), Source.of(batches)
    statistics = collect_statistics(prepared, batches, config)
    rankings = rank_sites(prepared, statistics, config)
    noise: list[LatencyError] = []

    def timed(model: Any, widths: Any, options: Any, *, merged_tokens: Any) -> dict[str, Any]:
        if merged_tokens:
            raise LatencyError("noisy")
        return {"speedup": 2.0, "dense_ms": 1.0}

    monkeypatch.setattr(module, "latency_of_widths", timed)
    seen: list[tuple[int, int | None]] = []
    measured = measure_grid(
        prepared,
        statistics,
        config,
        source,
        rankings,
        latency=LatencyOptions(),
        progress=lambda done, total: seen.append((done, total)),
        on_noise=noise.append,
    )
    found = measured.measurements_of(config.method)
    assert found is not None
    assert seen[-1] == (len(found.points), len(found.points))
    dense, *others = found.points
    assert (dense.merged_tokens, list(dense.widths), dense.latency) == ((), prepared.widths, {})
    assert dense.distance == pytest.approx(0, abs=1e-6)
    assert all(bool(one.latency) is not bool(one.merged_tokens) for one in others)
    assert len(noise) == sum(bool(one.merged_tokens) for one in others) > 0
    one = next(one for one in others if not one.merged_tokens and sum(one.widths) < sum(prepared.widths) / 2)
    plan = make_plan(prepared, statistics, VBPConfig(ratio=1 - sum(one.widths) / sum(prepared.widths)))
    assert plan.widths == list(one.widths)
    distance = DistanceToDense(prepared, source, 32).of(apply_plan(prepared, plan, statistics))
    assert one.distance == pytest.approx(distance, rel=1e-5)


def test_a_second_call_replaces_the_points_of_the_first(vit: Any, batches: Any) -> None:
    prepared, config = prepare(vit), VBPConfig()
    statistics = collect_statistics(prepared, batches, config)
    rankings = rank_sites(prepared, statistics, config)
    for _ in range(2):
        statistics = measure_grid(prepared, statistics, config, Source.of(batches), rankings, limit=4)
    found = statistics.measurements_of(config.method)
    assert found is not None
    assert found.images == 4
    assert len({(one.merged_tokens, one.widths) for one in found.points}) == len(found.points)
