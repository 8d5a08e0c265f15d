"""The one verb: what it returns, that the parts give the same, and that nothing is done before a bad request fails."""

import copy
from typing import Any

import jsonschema
import pytest
import torch

import hf_vbp
from hf_vbp.config.registry import COMPENSATIONS, CRITERIA
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.latency import LatencyOptions
from hf_vbp.errors import BudgetError, ConfigurationError, NonFiniteError, StatisticsError, UnsupportedModelError
from hf_vbp.results.record import schema
from hf_vbp.workflow.prune import prune
from tests.conftest import make_model

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


def test_the_parts_give_the_same(vit: Any, batches: Batches) -> None:
    config = VBPConfig.preset("paper", ratio=0.5)
    statistics = hf_vbp.collect_statistics(vit, batches, config)
    plan = hf_vbp.make_plan(vit, statistics, config)
    whole = prune(vit, batches, config)
    assert whole.plan == plan
    assert same_weights(whole.model, hf_vbp.apply_plan(vit, plan, statistics))
    assert same_weights(whole.model, prune(vit, (), config, statistics=statistics).model)


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
    with pytest.raises(NonFiniteError, match=r"layers.1.mlp, fc2.weight"):
        prune(vit, Unread(), VBPConfig(ratio=0.5))


def test_nan_activations_name_the_site(vit: Any, batches: Batches) -> None:
    batches[1]["pixel_values"][2, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layers.\d.mlp.* image 10 "):
        prune(vit, batches, VBPConfig(ratio=0.5))


def test_one_image_is_too_few(vit: Any, batches: Batches) -> None:
    with pytest.raises(StatisticsError, match="saw 1 image"):
        prune(vit, [{"pixel_values": batches[0]["pixel_values"][:1]}], VBPConfig(ratio=0.5))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"ratio": 0.5, "target_macs": 0.5}, ConfigurationError),
        ({"ratio": 1.2}, BudgetError),
        ({"ratio": 0.5, "criterion": "nothing"}, ConfigurationError),
        ({"ratio": 0.5, "compensation": "nothing"}, ConfigurationError),
        ({"ratio": 0.5, "scope": "nothing"}, ConfigurationError),
        ({"ratio": 0.5, "minimum_width": -1}, ConfigurationError),
        ({"ratio": 0.5, "round_to": 0}, ConfigurationError),
    ],
)
def test_an_invalid_config_is_refused_when_it_is_made(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        VBPConfig(**fields)


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("compensation", sorted(COMPENSATIONS))
def test_every_criterion_goes_with_every_compensation(
    criterion: str, compensation: str, vit: Any, batches: Batches
) -> None:
    result = prune(vit, batches, VBPConfig(ratio=0.5, criterion=criterion, compensation=compensation))
    assert sum(result.plan.widths) == 72
    assert result.results["plan"]["criterion"] == criterion
    assert result.results["predicted"]["relative_output_error"] > 0
    jsonschema.validate(result.results, schema())


def test_the_paper_is_one_preset() -> None:
    assert VBPConfig.preset("paper", ratio=0.5) == VBPConfig(
        ratio=0.5, criterion="variance", compensation="mean", scope="global"
    )
    with pytest.raises(ConfigurationError, match="Unknown preset 'papers'; expected one of best, paper"):
        VBPConfig.preset("papers", ratio=0.5)


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
