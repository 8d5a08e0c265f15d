"""MLPs whose neurons pass a normalization are refitted by a second pass."""

import copy
import warnings
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.compensation.base import Compensated, CompensationWarning
from hf_vbp.compensation.mean import Mean
from hf_vbp.errors import ConfigurationError, DataError, NonFiniteError
from tests.families.running import model_of
from tests.families.zoo import FAMILIES

CONVNEXT = next(family for family in FAMILIES if family.name == "ConvNextV2ForImageClassification")


def relative_error(dense: Any, pruned: Any, data: list[dict[str, Any]]) -> float:
    with torch.no_grad():
        pairs = [(dense(**batch).logits, pruned(**batch).logits) for batch in data]
    before, after = (torch.cat(logits) for logits in zip(*pairs, strict=True))
    return float((before - after).square().sum() / (before - before.mean(0)).square().sum())


@pytest.fixture(scope="module")
def data() -> list[dict[str, Any]]:
    return [CONVNEXT.batch(8, 0, 8 * index) for index in range(4)]


def test_the_output_error_falls_by_far(data: list[dict[str, Any]]) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig(ratio=0.4)
    statistics = hf_vbp.collect_statistics(dense, data, config)
    with pytest.warns(CompensationWarning, match="should be refitted on images"):
        first = hf_vbp.prune(dense, None, config, statistics=statistics).model
    refitted = hf_vbp.prune(dense, data, config, statistics=statistics).model
    assert relative_error(dense, refitted, data) < 0.2 * relative_error(dense, first, data)


def test_the_prediction_is_marked_as_inexact_and_holds_after_the_refit_only(data: list[dict[str, Any]]) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig(ratio=0.4)
    evaluation = [{**batch, "labels": torch.zeros(len(batch["pixel_values"]), dtype=torch.int64)} for batch in data]
    refitted = hf_vbp.evaluate(hf_vbp.prune(dense, data, config), evaluation)
    with pytest.warns(CompensationWarning, match="much larger than predicted"):
        first = hf_vbp.evaluate(hf_vbp.prune(dense, None, config, statistics=refitted.statistics), evaluation)
    predicted, *observed = (
        part["relative_output_error"]
        for part in (refitted.results["predicted"], refitted.results["observed"], first.results["observed"])
    )
    assert refitted.results["predicted"]["exact"] is False
    assert observed[0] < 3 * predicted
    assert observed[1] > 10 * predicted


def test_the_weights_are_least_squares(data: list[dict[str, Any]]) -> None:
    """The last block: nothing behind it changes its inputs, so that it can be fitted by hand."""
    dense = model_of(CONVNEXT.name)
    config = hf_vbp.VBPConfig(ratio=0.4, compensation_options={"ridge": 0.0})
    pruned = hf_vbp.prune(dense, data, config).model
    last, small = (hf_vbp.adapters.find_sites(model)[-1] for model in (dense, pruned))
    inputs, hidden, outputs = [], [], []
    handles = [
        last.fc1.register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
        last.fc2.register_forward_hook(lambda module, args, output: outputs.append(output.flatten(0, -2))),
    ]
    with torch.no_grad():
        for batch in data:
            dense(**batch)
        for handle in handles:
            handle.remove()
        block = pruned.get_submodule(small.name)
        for values in inputs:
            hidden.append(block.grn(block.act(block.pwconv1(values))).flatten(0, -2))
    rows = torch.cat([torch.cat(hidden), torch.ones(sum(map(len, hidden)), 1)], 1).double()
    expected = torch.linalg.lstsq(rows, torch.cat(outputs).double()).solution
    found = torch.cat([small.fc2.weight, small.fc2.bias[:, None]], 1).detach().double()
    torch.testing.assert_close(rows @ found.T, rows @ expected, rtol=1e-3, atol=1e-4)


def test_the_points_of_a_sweep_are_those_of_prune(data: list[dict[str, Any]]) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig()
    evaluation = [{**batch, "labels": torch.zeros(len(batch["pixel_values"]), dtype=torch.int64)} for batch in data]
    rows = hf_vbp.sweep(dense, data, config, ratios=[0.2, 0.4], eval_data=evaluation)
    for row in rows[1:]:
        pruned = hf_vbp.prune(dense, data, config.with_budget(ratio=row["ratio"])).model
        found = hf_vbp.evaluate_models({"dense": dense, "pruned": pruned}, evaluation)["pruned"].to_dict()
        assert {key: row[key] for key in found} == found


@pytest.mark.parametrize("inplace", [False, True])
def test_a_plan_is_applied_as_by_prune(inplace: bool, data: list[dict[str, Any]]) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig(ratio=0.4)
    result = hf_vbp.prune(dense, data, config)
    expected = result.model.state_dict()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    changed = copy.deepcopy(dense)
    again = hf_vbp.apply_plan(changed, result.plan, result.statistics, inplace=inplace, data=data)
    assert (again is changed) == inplace
    whole = hf_vbp.prune(copy.deepcopy(dense), data, config, inplace=inplace).model
    for model in (again, whole):
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    with pytest.warns(CompensationWarning, match=r"which needs data \(--data\)"):
        first = hf_vbp.apply_plan(dense, result.plan, result.statistics)
    assert relative_error(dense, again, data) < 0.2 * relative_error(dense, first, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_images_that_can_be_read_only_once_are_refused_before_the_pass(data: list[dict[str, Any]]) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig(ratio=0.4)
    statistics = hf_vbp.collect_statistics(dense, data, config)
    with pytest.raises(ConfigurationError, match="refitted in another pass over the images, but a list_iterator"):
        hf_vbp.prune(dense, iter(data), config)
    with pytest.raises(ConfigurationError, match="can be iterated only once"):
        hf_vbp.sweep(dense, iter(data), ratios=[0.2, 0.4], eval_data=data, statistics=statistics)
    # The refit is the only pass.
    result = hf_vbp.prune(dense, iter(data), config, statistics=statistics)
    assert torch.equal(last_down(result.model), last_down(hf_vbp.prune(dense, data, config).model))
    with pytest.raises(DataError, match="down projections are refitted on at least one"):
        hf_vbp.apply_plan(dense, result.plan, statistics, data=[])


def last_down(model: Any) -> torch.Tensor:
    weight: torch.Tensor = hf_vbp.find_sites(model)[-1].fc2.weight
    return weight


def test_images_of_other_models_are_not_read_again(vit: Any, batches: Any) -> None:
    class Counted(list):  # type: ignore[type-arg]
        reads = 0

        def __iter__(self) -> Any:
            Counted.reads += 1
            return super().__iter__()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf_vbp.prune(vit, Counted(batches), hf_vbp.VBPConfig(ratio=0.3))
    assert Counted.reads == 1


def test_the_result_of_a_users_refit_is_checked(data: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    dense, config = model_of(CONVNEXT.name), hf_vbp.VBPConfig(ratio=0.4, criterion="variance", compensation="mean")
    before = copy.deepcopy(dense.state_dict())
    monkeypatch.setattr(Mean, "refit", lambda self, fitted, joint: Compensated(fitted.weight * float("nan"), None))
    with pytest.raises(NonFiniteError, match=r"compensation 'mean' returned a weight with \d+ values .* for site"):
        hf_vbp.prune(dense, data, config, inplace=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
