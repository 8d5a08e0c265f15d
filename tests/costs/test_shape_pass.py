"""The forward pass that counts MACs has no values of weights, and the values of everything else that is small."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from hf_vbp.costs import shape_pass
from hf_vbp.costs.counts import MissingValuesError, count_macs
from hf_vbp.errors import UnsupportedModelError

BATCH = {"pixel_values": torch.arange(12.0).reshape(4, 3)}


class Module(nn.Module):
    """Runs a linear layer of 3 x 3 on as many rows of the input as ``rows`` returns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        nn.init.constant_(self.linear.weight, 1)

    def rows(self, pixel_values: Tensor) -> int:
        """All rows."""
        return len(pixel_values)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """One linear layer."""
        self.calls += 1
        return self.linear(pixel_values[: self.rows(pixel_values)])


class ReadsInputs(Module):
    def rows(self, pixel_values: Tensor) -> int:
        mask = pixel_values[:, 0] > 5
        return int(mask.sum()) + len(pixel_values[mask])


class ReadsWeights(Module):
    def rows(self, pixel_values: Tensor) -> int:
        return int(self.linear.weight.sum()) // 3


class ReadsWhatIsOverwritten(Module):
    """The values of the weights are written into a view of a tensor that is computed from nothing."""

    def rows(self, pixel_values: Tensor) -> int:
        mask = torch.zeros(2, 3)
        mask[1:] = self.linear.weight[0]
        return int(mask.flatten().sum())


class ReadsWhatIsOverwrittenAtIndices(Module):
    """Indices of what is written keep their values."""

    def rows(self, pixel_values: Tensor) -> int:
        indices = torch.tensor([0, 2])
        torch.zeros(3)[indices] = self.linear.weight[0, :2]
        self.linear.weight.clone()[indices] = 0
        return int(indices.sum())


@pytest.mark.parametrize(
    ("module", "rows", "without_weights"),
    [
        (Module, 4, True),
        (ReadsInputs, 4, True),
        (ReadsWeights, 3, False),
        (ReadsWhatIsOverwritten, 3, False),
        (ReadsWhatIsOverwrittenAtIndices, 2, True),
    ],
)
def test_a_pass_reads_the_values_that_it_has(module: type[Module], rows: int, without_weights: bool) -> None:
    model = module()
    assert count_macs(model, BATCH) == rows * 9
    model.linear.to("meta")
    if without_weights:
        assert count_macs(model, BATCH) == rows * 9
    else:
        with pytest.raises(MissingValuesError, match=f"The forward pass of {module.__name__} reads values"):
            count_macs(model, BATCH)


def test_buffers_are_not_changed() -> None:
    model = Module()
    count_macs(model, BATCH)
    assert model.calls == 0


def test_large_tensors_have_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Any] = []

    class Masks(Module):
        def rows(self, pixel_values: Tensor) -> int:
            kinds.append([type(torch.ones(size) > 0) for size in (10, 11)])
            return 4

    monkeypatch.setattr(shape_pass, "_LARGEST_VALUES", 10)
    assert count_macs(Masks(), {"pixel_values": BATCH["pixel_values"]}) == 36
    assert kinds == [[Tensor, FakeTensor]]


def test_a_pass_that_fails_for_another_reason_does_not_miss_values() -> None:
    class Fails(Module):
        def rows(self, pixel_values: Tensor) -> int:
            return int(pixel_values.unfold(1, 7, 1)[0])

    for device in ("cpu", "meta"):
        with pytest.raises(UnsupportedModelError, match=r"Fails fails on pixel_values \(4, 3\)") as found:
            count_macs(Fails().to(device), BATCH)
        assert not isinstance(found.value, MissingValuesError)
