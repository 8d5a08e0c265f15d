"""Which tokens of an image count."""

import pytest
import torch

from hf_vbp.calibration.tokens import tokens_of
from hf_vbp.errors import StatisticsError

VALUES = torch.arange(2 * 6 * 2, dtype=torch.float32).reshape(2, 6, 2)


def test_all_tokens_count_without_a_mask() -> None:
    assert torch.equal(tokens_of(VALUES, {}, 2, "mlp").rows(), VALUES.flatten(0, 1))
    assert torch.equal(tokens_of(VALUES, {}, 2, "mlp").rows(1, 2), VALUES[1])


def test_frames_and_windows_belong_to_their_image() -> None:
    frames = VALUES.reshape(4, 3, 2)
    assert torch.equal(tokens_of(frames, {}, 2, "mlp").values, VALUES)


def test_masked_patches_do_not_count() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    tokens = tokens_of(VALUES, {"pixel_attention_mask": mask}, 2, "mlp")
    assert torch.equal(tokens.rows(), torch.cat([VALUES[0, :3], VALUES[1]]))
    assert torch.equal(tokens.rows(0, 1), VALUES[0, :3])


def test_padded_pixels_do_not_count_at_any_stride() -> None:
    mask = torch.zeros(2, 8, 12)
    mask[0, :4, :8] = 1
    mask[1] = 1
    tokens = tokens_of(VALUES, {"pixel_mask": mask}, 2, "mlp")
    assert tokens.mask is not None
    assert tokens.mask.tolist() == [[True, True, False, False, False, False], [True] * 6]


def test_packed_patches_are_split_by_their_grids() -> None:
    packed = VALUES.flatten(0, 1)
    grid = torch.tensor([[1, 2, 2], [1, 2, 4]])
    tokens = tokens_of(packed, {"grid_thw": grid}, 2, "mlp")
    assert torch.equal(tokens.rows(0, 1), packed[:4])
    assert torch.equal(tokens.rows(), packed)


def test_values_of_no_image_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"first dimension is the 4 images, got the shape \(2, 6, 2\)"):
        tokens_of(VALUES, {}, 4, "mlp")
