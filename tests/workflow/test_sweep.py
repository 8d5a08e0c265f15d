"""``sweep`` gives the rows that single calls of ``prune`` and ``evaluate_models`` give."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import SwinConfig, SwinForImageClassification

import hf_vbp
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.errors import BudgetError, ConfigurationError, DataError, StatisticsError
from hf_vbp.pruning.levers import LeverWarning
from hf_vbp.workflow import sweep as sweep_module
from hf_vbp.workflow.sweep_front import mark_fronts, on_front

RATIOS = [0.2, 0.5, 0.35, 0.6, 0.4]


@pytest.mark.parametrize("config", [VBPConfig(), VBPConfig.preset("paper", ratio=0.9, round_to=4, scope="layer")])
def test_rows_are_those_of_single_prunes(config: VBPConfig, vit: Any, batches: Any) -> None:
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    rows = hf_vbp.sweep(vit, batches, config, ratios=RATIOS, eval_data=batches)
    assert [row["ratio"] for row in rows] == [0.0, *RATIOS]
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())
    dense = hf_vbp.evaluate_models({"dense": vit}, batches)["dense"]
    assert rows[0] == {"ratio": 0.0, **describe_cost(vit), **dense.to_dict()}
    for row in rows[1:]:
        pruned = hf_vbp.prune(vit, batches, config.with_budget(ratio=row["ratio"])).model
        found = hf_vbp.evaluate_models({"dense": vit, "pruned": pruned}, batches)["pruned"]
        method = {name: getattr(config, name) for name in ("criterion", "compensation", "scope")}
        assert row == {"ratio": row["ratio"], **method, **describe_cost(pruned), **found.to_dict()}


def test_statistics_replace_the_images(vit: Any, batches: Any) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches)
    from_images = hf_vbp.sweep(vit, batches, ratios=[0.5], eval_data=batches)
    assert hf_vbp.sweep(vit, ratios=[0.5], eval_data=batches, statistics=statistics) == from_images


def test_progress_covers_the_passes_over_the_evaluation_images(vit: Any, batches: Any) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches)
    images = [{"pixel_values": pixels, "labels": 0} for batch in batches for pixels in batch["pixel_values"]]
    loader = torch.utils.data.DataLoader(images, batch_size=15)  # type: ignore[arg-type]
    calls: list[Any] = []
    hf_vbp.sweep(
        vit, None, ratios=RATIOS, eval_data=loader, statistics=statistics, progress=lambda *call: calls.append(call)
    )
    assert calls == [(15, 60), (30, 60), (45, 60), (60, 60)]


class Unread:
    """Images that must not be read, since the request is invalid."""

    def __iter__(self) -> Any:
        raise AssertionError("the images were read before the request was checked")


@pytest.mark.parametrize("ratios", [[0.5, 1.0], [0.0], ["0.5"]])
def test_an_invalid_ratio_fails_before_the_images_are_read(ratios: Any, vit: Any) -> None:
    with pytest.raises(BudgetError, match="must be between 0 and 1"):
        hf_vbp.sweep(vit, Unread(), ratios=ratios, eval_data=[])


def test_invalid_requests_fail_before_the_images_are_read(vit: Any, batches: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one ratio"):
        hf_vbp.sweep(vit, Unread(), ratios=[], eval_data=[])
    with pytest.raises(DataError, match="read only once"):
        hf_vbp.sweep(vit, Unread(), ratios=RATIOS, eval_data=iter(batches))
    with pytest.raises(DataError, match="pass data"):
        hf_vbp.sweep(vit, None, ratios=[0.5], eval_data=batches)
    for site in hf_vbp.find_sites(vit):
        site.fc2.register_parameter("bias", None)
    with pytest.raises(ConfigurationError, match="fc2 has no bias"):
        hf_vbp.sweep(vit, Unread(), VBPConfig.preset("paper"), ratios=[0.5], eval_data=[])


def test_statistics_that_lack_something_are_refused(vit: Any, batches: Any) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches, VBPConfig.preset("paper"))
    with pytest.raises(StatisticsError, match="criterion 'obs' needs covariances"):
        hf_vbp.sweep(vit, None, ratios=[0.5], eval_data=batches, statistics=statistics)


def test_a_ratio_that_cannot_be_reached_is_reported_before_the_evaluation(
    vit: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "evaluate_models", lambda *args, **kwargs: pytest.fail("evaluated"))
    config = VBPConfig.preset("paper", minimum_width=24)
    with pytest.raises(BudgetError, match=r"0\.9 cannot be reached.*at most a share of 0\.5"):
        hf_vbp.sweep(vit, batches, config, ratios=[0.1, 0.2, 0.3, 0.4, 0.9], eval_data=batches)


def make_swin() -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4}
    config = SwinConfig(**shape, depths=[1, 1], num_heads=[2, 2], num_labels=5)
    return SwinForImageClassification(config).eval()


def test_levers_alone_and_together_at_shares_of_the_macs(vit: Any, batches: Any) -> None:
    shares, levers = [0.9, 0.75], ["tokens", "mlp"]
    statistics = hf_vbp.collect_statistics(vit, batches)
    rows = hf_vbp.sweep(vit, batches, levers=levers, macs=shares, eval_data=batches, statistics=statistics)
    combinations = [("mlp",), ("tokens",), ("mlp", "tokens")]
    assert [(row.get("levers"), row.get("target_macs")) for row in rows] == [
        (None, None),
        *((",".join(one), share) for one in combinations for share in shares),
    ]
    for row in rows[1:]:
        config = VBPConfig(target_macs=row["target_macs"], levers=tuple(row["levers"].split(",")))
        result = hf_vbp.prune(vit, batches, config, statistics=statistics)
        found = hf_vbp.evaluate_models({"dense": vit, "pruned": result.model}, batches)["pruned"]
        expected = {**describe_cost(result.model), **found.to_dict(), "ratio": result.plan.ratio}
        assert {name: row[name] for name in expected} == expected
        assert row["merged_tokens"] == max(result.plan.merged_tokens, default=0)
        if row["levers"] != "mlp,tokens":
            assert (row["ratio"] > 0, row["merged_tokens"] > 0) == (row["levers"] == "mlp", row["levers"] == "tokens")
        assert row["macs"] <= row["target_macs"] * rows[0]["macs"]


def test_a_share_that_one_lever_cannot_reach_is_left_out(vit: Any, batches: Any) -> None:
    with pytest.warns(LeverWarning, match=r"levers mlp: MACs: 0\.68 cannot be reached by pruning the MLPs"):
        rows = hf_vbp.sweep(vit, batches, levers=["mlp", "tokens"], macs=[0.68], eval_data=batches)
    assert [row.get("levers") for row in rows] == [None, "tokens", "mlp,tokens"]

    def only_the_first() -> Any:
        yield batches[0]
        raise AssertionError("the images were read before the request was checked")

    with pytest.warns(LeverWarning), pytest.raises(BudgetError, match=r"0\.1 cannot be reached"):
        hf_vbp.sweep(vit, only_the_first(), levers=["mlp"], macs=[0.1], eval_data=batches)


def test_invalid_levers_fail_before_the_images_are_read(vit: Any, batches: Any) -> None:
    statistics = hf_vbp.collect_statistics(vit, batches)
    for changes, error, message in (
        ({"levers": ["depth"]}, ConfigurationError, "levers must be some of mlp, tokens"),
        ({"levers": []}, ConfigurationError, "levers must be some of mlp, tokens"),
        ({"levers": ["mlp"], "ratios": [0.5]}, ConfigurationError, "either ratios, or levers"),
        ({"macs": [1.5]}, BudgetError, "must be between 0 and 1"),
    ):
        with pytest.raises(error, match=message):
            hf_vbp.sweep(vit, Unread(), eval_data=[], **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lever tokens cannot be used"):
        hf_vbp.sweep(make_swin(), None, levers=["tokens"], eval_data=[])
    with pytest.raises(DataError, match="pass data"):
        hf_vbp.sweep(vit, None, levers=["tokens"], macs=[0.9], eval_data=batches, statistics=statistics)
    with pytest.raises(DataError, match="once"):
        hf_vbp.sweep(vit, iter(batches), levers=["tokens"], macs=[0.9], eval_data=batches)


def test_the_default_levers_of_a_model_that_cannot_merge(batches: Any) -> None:
    rows = hf_vbp.sweep(make_swin(), batches, macs=[0.9], eval_data=batches)
    assert rows[1]["levers"] == "mlp"


@given(
    points=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12),
)
def test_the_front_is_what_no_other_model_dominates(points: list[tuple[int, int]]) -> None:
    marks = on_front([(float(cost), float(value)) for cost, value in points])
    for index, (cost, value) in enumerate(points):
        dominated = any((c < cost and v >= value) or (c <= cost and v > value) for c, v in points)
        assert marks[index] is not dominated


def test_the_front_of_latency_compares_times_of_one_run() -> None:
    conditions = {"latency_batch": 1, "latency_dtype": "float32", "latency_threads": 1, "latency_device_name": "x"}
    dense = {"ratio": 0.0, "macs": 100, "top1": 0.8, "latency_ms": 10.0, **conditions}
    # The machine was twice as fast when the second one was measured, and the third one under other conditions.
    slow = {**dense, "criterion": "obs", "macs": 80, "top1": 0.7, "latency_ms": 9.0, "speedup": 1.25}
    fast = {**slow, "macs": 70, "latency_ms": 4.8, "speedup": 1.04}
    other = {**slow, "macs": 60, "top1": 0.5, "latency_batch": 8, "speedup": 1.1}
    rows = [dense, slow, fast, other]
    mark_fronts(rows)
    assert [row["on_latency_front"] for row in rows] == [True, True, False, True]
    assert [row["on_macs_front"] for row in rows] == [True, False, True, True]
