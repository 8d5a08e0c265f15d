"""``prune``: its result, the same result from its parts, and bad requests that fail before any work."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import hf_vbp
from hf_vbp.adapters.prepared import prepare
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.config.requirements import Requirements
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import (
    BudgetError,
    ConfigurationError,
    DataError,
    NonFiniteError,
    StatisticsError,
    UnsupportedModelError,
)
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.results.record import schema
from hf_vbp.workflow.gather import gather
from hf_vbp.workflow.loading import LoadedModel
from hf_vbp.workflow.prune import prune
from hf_vbp.workflow.requests import late_stage
from tests.conftest import make_model
from tests.workflow.finetune.helpers import Said
from tests.workflow.strategies import configs

Batches = list[dict[str, torch.Tensor]]


def same_weights(first: Any, second: Any) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher", "deit-backbone"])
def test_prunes_every_head_and_reports(kind: str, batches: Batches) -> None:
    model = make_model(kind)
    before = copy.deepcopy(model)
    result = prune(model, batches, VBPConfig(ratio=0.5))
    assert same_weights(model, before)
    assert type(result.model) is type(model)
    assert result.model.config.vbp["widths"] == result.plan.widths
    assert sum(result.plan.widths) == 72
    jsonschema.validate(result.results, schema())
    assert result.results["cost"]["pruned"]["parameters"] == sum(p.numel() for p in result.model.parameters())
    assert result.results["data"]["calibration"]["images"] == 30


MODEL, BATCHES = make_model("vit"), list(torch.randn(2, 24, 3, 32, 32, generator=torch.Generator().manual_seed(3)))


@pytest.mark.processes
@given(config=configs())
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_the_parts_give_the_same_for_every_field(config: VBPConfig) -> None:
    images = [{"pixel_values": pixel_values} for pixel_values in BATCHES]
    statistics = hf_vbp.collect_statistics(MODEL, images, config)
    statistics = hf_vbp.measure_levers(MODEL, statistics, images, config)
    plan = hf_vbp.make_plan(MODEL, statistics, config)
    parts = hf_vbp.apply_plan(MODEL, plan, statistics)
    whole = prune(MODEL, images, config)
    assert whole.plan == plan
    assert same_weights(whole.model, parts)
    assert whole.model.config.to_dict() == parts.config.to_dict()
    again = PruningPlan.from_dict(json.loads(plan.to_json()))
    assert again == plan
    assert again.config == config
    assert same_weights(whole.model, prune(MODEL, None, config, statistics=statistics).model)
    precomputed = hf_vbp.precompute_scores(MODEL, statistics, config)
    assert hf_vbp.make_plan(MODEL, precomputed, config) == plan


def test_equal_sites_need_no_record(vit: Any, batches: Batches) -> None:
    result = prune(vit, batches, VBPConfig(ratio=0.5, scope="layer"))
    assert result.plan.widths == [24, 24, 24]
    assert result.model.config.intermediate_size == 24
    assert not hasattr(result.model.config, "vbp")


def test_a_pruned_model_can_be_pruned_again(vit: Any, batches: Batches) -> None:
    once = prune(vit, batches, VBPConfig(ratio=0.25)).model
    twice = prune(once, batches, VBPConfig(ratio=0.25))
    assert twice.plan.dense_widths == [site.intermediate_size for site in hf_vbp.find_sites(once)]
    with torch.no_grad():
        assert torch.isfinite(twice.model(pixel_values=batches[0]["pixel_values"]).logits).all()


class Unread:
    """A loader that must not be read, since the request is bad."""

    def __iter__(self) -> Any:
        raise AssertionError("the images were read before the request was checked")


class FirstOnly:
    """A loader of which only the first batch may be read, for the structural check."""

    def __iter__(self) -> Any:
        yield {"pixel_values": torch.zeros(2, 3, 32, 32)}
        raise AssertionError("more than the first batch was read")


@pytest.mark.parametrize(
    ("model", "error", "says"),
    [
        ("a/path", UnsupportedModelError, "got str"),
        (torch.nn.Linear(2, 2), UnsupportedModelError, "with a config"),
    ],
)
def test_a_bad_model_fails_before_the_images_are_read(model: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        prune(model, Unread(), VBPConfig(ratio=0.5))


def test_bad_weights_fail_before_the_images_are_read(vit: Any) -> None:
    with torch.no_grad():
        vit.vit.layers[1].mlp.fc2.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"layers.1.mlp.fc2.weight"):
        prune(vit, Unread(), VBPConfig(ratio=0.5))


def test_nan_pixels_name_the_image(vit: Any, batches: Batches) -> None:
    batches[1]["pixel_values"][2, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"image 10 .*pixel_values hold NaN"):
        prune(vit, batches, VBPConfig(ratio=0.5))


def test_one_image_is_too_few(vit: Any, batches: Batches) -> None:
    with pytest.raises(StatisticsError, match="statistics are of 1 image"):
        prune(vit, [{"pixel_values": batches[0]["pixel_values"][:1]}], VBPConfig(ratio=0.5))


@pytest.mark.parametrize("task", [prune, hf_vbp.make_plan])
def test_a_config_without_a_budget_is_refused_before_any_work(task: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"needs a budget: .* one of ratio, .*, for instance ratio=0\.5"):
        task("not even a model", Unread(), VBPConfig())


def test_statistics_are_gathered_for_a_config_without_a_budget(vit: Any, batches: Batches) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches, VBPConfig(criterion="variance"))
    assert statistics.provides == Requirements(covariances=True)


def test_neither_images_nor_statistics_is_refused(vit: Any) -> None:
    with pytest.raises(DataError, match="pass data"):
        prune(vit, None, VBPConfig(ratio=0.5))


class TestStatisticsThatLackSomething:
    @pytest.fixture
    def variances(self, vit: Any, batches: Batches) -> hf_vbp.ActivationStatistics:
        return hf_vbp.collect_statistics(vit, batches, VBPConfig.preset("paper"))

    def test_snip_reads_the_images_for_its_saliency(self, vit: Any, batches: Batches, variances: Any) -> None:
        config = VBPConfig(ratio=0.5, criterion="snip", compensation="mean")
        result = prune(vit, batches[:2], config, statistics=variances)
        assert result.plan == prune(vit, None, config, statistics=result.statistics).plan
        assert result.statistics.images == 30
        limited = prune(vit, batches, config, statistics=variances, limit=16)
        for ours, theirs in zip(limited.statistics.sites, result.statistics.sites):
            torch.testing.assert_close(ours.saliency, theirs.saliency)

    def test_snip_without_images_is_one_clear_error(self, vit: Any, variances: Any) -> None:
        with pytest.raises(StatisticsError, match=r"'snip' needs saliency.*collect_statistics.*hf-vbp stats"):
            prune(vit, None, VBPConfig(ratio=0.5, criterion="snip", compensation="mean"), statistics=variances)

    def test_statistics_that_a_further_pass_cannot_add_are_refused_before_it(self, vit: Any, variances: Any) -> None:
        config = VBPConfig(ratio=0.5, criterion="snip", compensation="linear")
        with pytest.raises(StatisticsError, match="compensation 'linear' needs covariances"):
            prune(vit, FirstOnly(), config, statistics=variances)

    def test_images_are_not_read_when_nothing_is_missing(self, vit: Any, variances: Any) -> None:
        result = prune(vit, FirstOnly(), VBPConfig.preset("paper", ratio=0.5), statistics=variances)
        assert result.statistics is variances


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("compensation", sorted(COMPENSATIONS))
def test_every_criterion_works_with_every_compensation(
    criterion: str, compensation: str, vit: Any, batches: Batches
) -> None:
    result = prune(vit, batches, VBPConfig(ratio=0.5, criterion=criterion, compensation=compensation))
    assert sum(result.plan.widths) == 72
    assert result.results["plan"]["criterion"] == criterion
    assert result.results["predicted"]["relative_output_error"] > 0
    jsonschema.validate(result.results, schema())


def test_the_command_line_names_every_criterion() -> None:
    from hf_vbp.cli import groups

    assert ", ".join(sorted(CRITERIA)) == groups.CRITERIA


def test_a_sweep_measures_several_methods_from_one_pass(
    vit: Any, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.costs.clock import Clock

    Clock(lambda model, now: model.num_parameters() * 1e-6).install(monkeypatch)
    passes: list[int] = []

    class Counted:
        def __iter__(self) -> Any:
            passes.append(1)
            return iter(batches)

    methods = [VBPConfig(criterion="variance", compensation=name) for name in ("none", "mean", "linear")]
    rows = hf_vbp.sweep(
        vit, Counted(), methods, ratios=[0.25, 0.5], eval_data=batches, latency=LatencyOptions(batch=2)
    )
    assert len(passes) == 1
    assert [(row["ratio"], row.get("compensation")) for row in rows] == [
        (0.0, None), (0.25, "none"), (0.5, "none"), (0.25, "mean"), (0.5, "mean"), (0.25, "linear"), (0.5, "linear")
    ]  # fmt: skip
    for row in rows[1:]:
        config = VBPConfig(criterion="variance", compensation=row["compensation"], ratio=row["ratio"])
        alone = prune(vit, batches, config, eval_data=batches)
        assert row["top1"] == alone.results["evaluation"]["pruned"]["top1"]
        assert row["speedup"] == pytest.approx(rows[0]["parameters"] / row["parameters"])
    Clock(lambda model, now: 1e-3, noise=3.0).install(monkeypatch)
    with pytest.warns(UserWarning, match="too noisy"):
        noisy = hf_vbp.sweep(vit, batches, ratios=[0.5], eval_data=batches, latency=LatencyOptions())
    assert "top1" in noisy[1]
    assert "latency_ms" not in noisy[1]


def test_a_sweep_with_an_impossible_ratio_reads_no_image(vit: Any) -> None:
    with pytest.raises(BudgetError, match=r"hidden neurons: 0.9 cannot be reached"):
        hf_vbp.sweep(vit, Unread(), VBPConfig(minimum_width=20), ratios=[0.2, 0.9], eval_data=Unread())


def test_a_bar_is_shown_only_for_a_pass(vit: Any, batches: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    config = VBPConfig(ratio=0.5)
    hf_vbp.collect_statistics(vit, batches, config).save(tmp_path / "statistics")
    said = Said()
    gather(prepare(vit), LoadedModel("vit", vit, None), config, said, statistics=tmp_path / "statistics")
    assert said.stages == []
    with late_stage(said, "Statistics", 2) as progress:
        assert said.stages == []
        progress(1, 2)
        progress(2, 2)
    assert said.stages == ["Statistics"]
