"""The product behind the last site is left out, and nothing else changes."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_vbp.adapters.registry import find_sites
from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.skipping import LastProduct
from hf_vbp.errors import NonFiniteError, StatisticsError
from tests.calibration.helpers import images, in_batches
from tests.calibration.test_resume import assert_same_bits
from tests.conftest import make_model


def outputs_of_last_fc2(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the list that will hold the shape of every product of the weight of the last ``fc2``."""
    weight = find_sites(model)[-1].fc2.weight
    shapes: list[tuple[int, ...]] = []
    linear = nn.functional.linear

    def counting(values: torch.Tensor, parameter: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if parameter is weight:
            shapes.append(tuple(values.shape))
        return linear(values, parameter, bias)

    monkeypatch.setattr(nn.functional, "linear", counting)
    return shapes


@pytest.mark.parametrize("kind", ["vit", "vit-backbone", "deit", "deit-teacher"])
def test_only_the_first_batch_runs_to_the_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(kind)
    shapes = outputs_of_last_fc2(model, monkeypatch)
    found = collect_statistics(model, in_batches(images(40), 8), moments="full")
    assert len(shapes) == 1
    monkeypatch.undo()
    # Whoever listens to a module hears what it really gives: nothing is left out then.
    heard: list[torch.Tensor] = []
    find_sites(model)[-1].fc2.register_forward_hook(lambda _, inputs, output: heard.append(output))
    whole = collect_statistics(model, in_batches(images(40), 8), moments="full")
    assert len(heard) == 5
    assert all(bool(output.any()) for output in heard)
    assert_same_bits(found, whole)


def test_the_metric_needs_every_product(vit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = outputs_of_last_fc2(vit, monkeypatch)
    collect_statistics(vit, in_batches(images(24), 8), output_metric=True)
    assert len(shapes) == 3


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_gets_its_product_back(vit: Any, broken: bool) -> None:
    values = images(8)
    expected = vit.eval()(pixel_values=values).logits
    batches = in_batches(images(24), 8)
    last = find_sites(vit)[-1].fc2
    during: list[bool] = []
    if broken:
        batches.append({"pixel_values": torch.randn(2, 3, 16, 16)})
        with pytest.raises(ValueError, match="size"):
            collect_statistics(vit, batches, progress=lambda *_: during.append("forward" in vars(last)))
    else:
        collect_statistics(vit, batches, progress=lambda *_: during.append("forward" in vars(last)))
    assert during == [False, True, True]
    assert not any("forward" in vars(module) for module in vit.modules())
    assert torch.equal(vit(pixel_values=values).logits, expected)


def test_a_forward_of_its_own_is_kept(vit: Any) -> None:
    last = find_sites(vit)[-1].fc2
    calls: list[int] = []
    original = last.forward
    last.forward = lambda values: calls.append(1) or original(values)  # type: ignore[func-returns-value]
    collect_statistics(vit, in_batches(images(24), 8))
    assert len(calls) == 3


def test_a_site_that_is_used_twice_is_needed_to_the_end(vit: Any) -> None:
    first, second = find_sites(vit)[:2]
    last_product = LastProduct(vit)
    for _ in range(3):
        last_product.next_batch()
        for site in (first, second, first):
            last_product.use(site)
    assert last_product.last is None


def test_another_order_than_in_the_first_batch_is_refused(vit: Any) -> None:
    first, second = find_sites(vit)[:2]
    last_product = LastProduct(vit)
    for site in (first, second):
        last_product.use(site)
    last_product.next_batch()
    assert last_product.last is second
    last_product.use(second)
    with pytest.raises(StatisticsError, match=rf"{first.name} is used after {second.name}"):
        last_product.use(first)
    last_product.restore()
    assert "forward" not in vars(second.fc2)


def test_what_is_not_finite_in_a_later_batch_is_named(vit: Any) -> None:
    done: list[int] = []

    def spoil(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0] * torch.inf,) if len(done) == 2 else inputs

    find_sites(vit)[1].fc1.register_forward_pre_hook(spoil)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp: the activations hold NaN.* image 16 "):
        collect_statistics(vit, in_batches(images(24), 8), progress=lambda count, _: done.append(count))
