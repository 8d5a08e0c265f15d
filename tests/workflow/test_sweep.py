"""``sweep`` gives the rows that single calls of ``prune`` and ``evaluate_models`` give."""

from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.config.vbp_config import VBPConfig
from hf_vbp.costs.counts import describe_cost
from hf_vbp.errors import BudgetError, ConfigurationError, DataError, StatisticsError
from hf_vbp.workflow import sweep as sweep_module

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
    assert hf_vbp.sweep(vit, None, ratios=[0.5], eval_data=batches, statistics=statistics) == from_images


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
