"""Images of another shape than the model's end with one sentence, however they are given."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import hf_vbp
from hf_vbp.calibration.saliency import collect_saliency
from hf_vbp.errors import DataError
from tests.conftest import make_model

Batches = list[dict[str, torch.Tensor]]
CONFIG = hf_vbp.VBPConfig(ratio=0.5)
MESSAGE = r"prepared with the shape \({}\), but ViTForImageClassification takes \(3, 32, 32\) .*--interpolate-pos-enc"
SHAPES = [(1, 32, 32), (3, 40, 40), (3, 32), (32, 32)]


def images(shape: tuple[int, ...], count: int = 4) -> Batches:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 5
    return [{"pixel_values": torch.randn(count, *shape, generator=generator), "labels": labels}]


def message(shape: tuple[int, ...]) -> str:
    return MESSAGE.format(", ".join(map(str, shape)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda model, data: hf_vbp.prune(model, data, CONFIG),
        lambda model, data: hf_vbp.collect_statistics(model, data, hf_vbp.VBPConfig.preset("paper")),
        collect_saliency,
        lambda model, data: hf_vbp.evaluate_models({"dense": model}, data),
        # The second batch, which only the pass itself reads.
        lambda model, data: hf_vbp.collect_statistics(model, images((3, 32, 32)) + data),
    ],
    ids=["prune", "statistics", "saliency", "evaluation", "second batch"],
)
def test_in_every_pass(vit: Any, call: Callable[[Any, Batches], Any], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=message(shape)) as caught:
        call(vit, images(shape))
    assert "\n" not in str(caught.value)


def rows(shape: tuple[int, ...]) -> list[dict[str, Any]]:
    return [{"pixel_values": pixels, "labels": 0} for pixels in images(shape)[0]["pixel_values"]]


@pytest.mark.parametrize(
    "form",
    [images, rows, lambda shape: DataLoader(rows(shape), 2), lambda shape: DataLoader(rows(shape), 2, shuffle=True)],  # type: ignore[arg-type]
    ids=["batches", "rows", "loader", "shuffled loader"],
)
def test_in_prepared_sources_of_load_images(vit: Any, form: Callable[[tuple[int, ...]], Any]) -> None:
    with pytest.raises(DataError, match=message((3, 40, 40))):
        hf_vbp.load_images(form((3, 40, 40)), model=vit)
    source, generator = form((3, 32, 32)), torch.random.get_rng_state()
    found = hf_vbp.load_images(source, model=vit)
    # The order of a shuffled loader is that of the seed which the user has set.
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert sum(len(batch["pixel_values"]) for batch in found) == 4


def test_evaluation_images_before_the_pass(vit: Any) -> None:
    class Unread:
        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("the calibration images were read")

    for call in (
        lambda data: hf_vbp.prune(vit, Unread(), CONFIG, eval_data=data),
        lambda data: hf_vbp.sweep(vit, Unread(), ratios=[0.5], eval_data=data),
    ):
        for data in (images((3, 40, 40)), DataLoader(rows((3, 40, 40)), 2, shuffle=True)):  # type: ignore[arg-type,var-annotated]
            with pytest.raises(DataError, match=message((3, 40, 40))):
                call(data)


def test_iterators_are_not_used_up_and_other_failures_are_not_renamed(vit: Any) -> None:
    found = hf_vbp.load_images(iter(rows((3, 32, 32))), model=vit, batch_size=2)
    assert sum(len(batch["pixel_values"]) for batch in found) == 4

    class Broken(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of order")

    model = make_model()
    model.vit.layernorm = Broken()
    with pytest.raises(RuntimeError, match=r"^out of order$"):
        hf_vbp.evaluate_models({"dense": model}, images((3, 32, 32)))
