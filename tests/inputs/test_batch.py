"""Batches: the model's inputs, the images in them, and parts of them."""

from typing import Any

import pytest
import torch

from hf_vbp.errors import DataError
from hf_vbp.inputs.batch import count_images, main_input, model_inputs, patches_by_image, take_images
from tests.families.running import BY_NAME


def test_only_what_the_forward_pass_takes_in_the_models_dtype(vit: Any) -> None:
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": torch.zeros(2), "name": ["a", "b"]}
    inputs = model_inputs(vit.bfloat16(), batch)
    assert set(inputs) == {"pixel_values"}
    assert inputs["pixel_values"].dtype == torch.bfloat16


def test_a_list_of_images_is_stacked(vit: Any) -> None:
    assert model_inputs(vit, {"pixel_values": [torch.zeros(3, 32, 32)] * 2})["pixel_values"].shape == (2, 3, 32, 32)


def test_a_list_of_images_of_several_shapes_is_refused(vit: Any) -> None:
    images = [torch.zeros(3, 32, 48), torch.zeros(3, 32, 32), torch.zeros(3, 32, 48)]
    with pytest.raises(DataError, match=r"several shapes \(\(3, 32, 32\), \(3, 32, 48\)\): give one batch for each"):
        model_inputs(vit, {"pixel_values": images})


def test_batches_of_another_model_are_refused(vit: Any) -> None:
    with pytest.raises(DataError, match=r"takes .*pixel_values.*, but a batch holds input_values"):
        model_inputs(vit, {"input_values": torch.zeros(2, 8)})


def test_texts_are_kept_whole_and_masks_follow_their_images() -> None:
    batch = {
        "pixel_values": torch.arange(3.0)[:, None],
        "pixel_mask": torch.arange(3)[:, None],
        "input_ids": torch.zeros(3, 5),
        "threshold": 0.5,
    }
    part = take_images(batch, 1, 3)
    assert part["pixel_values"].flatten().tolist() == part["pixel_mask"].flatten().tolist() == [1, 2]
    assert part["input_ids"].shape == (3, 5)
    assert part["threshold"] == 0.5
    assert count_images(part) == 2


@pytest.mark.parametrize("key", ["input_ids", "input_values"])
def test_a_mask_without_texts_belongs_to_the_images(key: str) -> None:
    batch = {key: torch.arange(12).reshape(3, 4), "attention_mask": torch.arange(3)[:, None], "scale": torch.ones(4)}
    part = take_images(batch, 1, 3)
    assert part[key][:, 0].tolist() == [4, 8]
    assert part["attention_mask"].flatten().tolist() == [1, 2]
    assert len(part["scale"]) == 4
    assert count_images(part) == 2


def test_packed_patches_are_counted_by_their_grids() -> None:
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 1, 3]])
    batch = {"hidden_states": torch.arange(15.0)[:, None], "grid_thw": grid}
    assert (count_images(batch), patches_by_image(batch)) == (3, [4, 8, 3])
    part = take_images(batch, 1, 2)
    assert part["hidden_states"].flatten().tolist() == list(range(4, 12))
    assert part["grid_thw"].tolist() == [[1, 2, 4]]


def test_a_batch_without_images_names_what_it_holds() -> None:
    with pytest.raises(DataError, match=r"pixel_values, got one with \['labels'\]"):
        main_input({"labels": torch.zeros(1)})


def test_a_required_mask_of_tokens_hides_every_second_one_and_that_of_the_user_is_kept() -> None:
    model = BY_NAME["VideoMAEForPreTraining"].build()
    pixels = torch.zeros(3, 4, 3, 32, 32)
    made = model_inputs(model, {"pixel_values": pixels})["bool_masked_pos"]
    assert made.shape == (3, 2 * 4 * 4)
    assert made.sum(dim=1).tolist() == [16, 16, 16]
    assert not made[:, ::2].any()
    own = torch.arange(32).expand(3, -1) < 20
    assert torch.equal(model_inputs(model, {"pixel_values": pixels, "bool_masked_pos": own})["bool_masked_pos"], own)
    # Models that take videos without a mask get none.
    assert set(model_inputs(BY_NAME["VideoMAEModel"].build(), {"pixel_values": pixels})) == {"pixel_values"}
