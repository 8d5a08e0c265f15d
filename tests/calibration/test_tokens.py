"""Which tokens of an image count."""

import pytest
import torch

from hf_vbp.calibration.collect import collect_statistics
from hf_vbp.calibration.padded_pixels import counted_tokens, patch_sizes
from hf_vbp.calibration.tokens import tokens_of
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import StatisticsError
from tests.families.family import nested, of
from tests.families.zoo_detection import DETR, padded

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


@pytest.mark.parametrize("size", [(200, 296), (480, 640), (427, 640), (800, 1333)])
@pytest.mark.parametrize("side", [4, 7, 8, 10, 12, 14, 16, 28, 32])
@pytest.mark.parametrize("leading", [0, 1, 2, 5])
def test_tokens_are_the_patches_after_class_token_and_registers(
    size: tuple[int, int], side: int, leading: int
) -> None:
    """With three quarters of the height and half of the width filled, at every stride."""
    height, width = size[0] // side, size[1] // side
    mask = torch.zeros(1, *size)
    mask[0, : 3 * size[0] // 4, : size[1] // 2] = 1
    rows = torch.arange(height) * size[0] / height < 3 * size[0] // 4
    columns = torch.arange(width) * size[1] / width < size[1] // 2
    expected = [True] * leading + (rows[:, None] & columns).flatten().tolist()
    found = counted_tokens(mask, height * width + leading, (side,))
    assert found is not None
    assert found[0].tolist() == expected


@pytest.mark.parametrize("side", [4, 8, 14, 16, 32])
def test_incomplete_patches_are_filled_up(side: int) -> None:
    mask = torch.zeros(2, 427, 637)
    mask[0], mask[1, :427, :200] = 1, 1
    height, width = -(-427 // side), -(-637 // side)
    found = counted_tokens(mask, height * width)
    assert found is not None
    assert bool(found[0].all())
    columns = torch.arange(width) * 637 / width < 200
    assert found[1].tolist() == columns.expand(height, width).flatten().tolist()


def test_a_class_token_is_recognized_without_a_config() -> None:
    mask = torch.zeros(1, 480, 640)
    mask[0, :240] = 1
    found = counted_tokens(mask, 30 * 40 + 1)
    assert found is not None
    assert found[0].tolist() == [True] * (1 + 15 * 40) + [False] * (15 * 40)


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (torch.zeros(2, 97, 97), torch.zeros(2, 60, 2)),
        (torch.zeros(2, 8, 12), VALUES.reshape(4, 3, 2)),
        (torch.zeros(3, 8, 12), VALUES),
    ],
    ids=["no grid", "windows", "other images"],
)
def test_padding_that_cannot_be_left_out_is_refused(mask: torch.Tensor, values: torch.Tensor) -> None:
    with pytest.raises(StatisticsError, match=r"are not a grid of patches of it.*leave pixel_mask out"):
        tokens_of(values, {"pixel_mask": mask}, 2, "mlp")
    # Without padding the mask excludes nothing.
    assert tokens_of(values, {"pixel_mask": torch.ones_like(mask)}, 2, "mlp").mask is None


@pytest.mark.parametrize("registers", [0, 4])
def test_padding_of_a_backbone_with_a_class_token_does_not_count(registers: int) -> None:
    options = {"num_register_tokens": registers} if registers else {}
    config = "Dinov2WithRegistersConfig" if registers else "Dinov2Config"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 64}
    backbone = nested(config, **sizes, **options, patch_size=8, out_indices=[2])
    model, batch = of("DetrForObjectDetection", "DetrConfig", **DETR, backbone_config=backbone)(), padded(4)
    assert patch_sizes(model.config) == (8,)
    unpadded = int(batch["pixel_mask"][:, ::8, ::8].sum())
    assert 0 < unpadded < 4 * 64
    statistics = collect_statistics(model, [batch], Requirements())
    assert [site.moments.count for site in statistics.sites] == [unpadded + 4 * (1 + registers)] * 2


def test_packed_patches_are_split_by_their_grids() -> None:
    packed = VALUES.flatten(0, 1)
    grid = torch.tensor([[1, 2, 2], [1, 2, 4]])
    tokens = tokens_of(packed, {"grid_thw": grid}, 2, "mlp")
    assert torch.equal(tokens.rows(0, 1), packed[:4])
    assert torch.equal(tokens.rows(), packed)


def test_values_of_no_image_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"first dimension is the 4 images, got the shape \(2, 6, 2\)"):
        tokens_of(VALUES, {}, 4, "mlp")
