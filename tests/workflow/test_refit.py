"""MLPs whose neurons pass a normalization are refitted by a second pass."""

import warnings
from typing import Any

import pytest
import torch

import hf_vbp
from hf_vbp.compensation.base import CompensationWarning
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
