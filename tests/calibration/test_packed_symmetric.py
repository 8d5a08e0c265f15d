"""The packed lower half of a symmetric matrix against the whole matrix."""

import pytest
import torch

from hf_vbp.calibration.packed_symmetric import SMALLEST_SQUARE, PackedSymmetric

# Widths of ViT-Ti to ViT-g, pruned ones, and the edges of a cut.
WIDTHS = [1, 7, 8, 37, 127, 128, 129, 255, 256, 257, 768, 1391, 1536, 3072, 4096, 4304, 5120, 6144]


@pytest.mark.parametrize("hidden", WIDTHS)
def test_the_packed_size_is_little_more_than_half_of_the_matrix(hidden: int) -> None:
    layout = PackedSymmetric.of(hidden)
    assert hidden <= layout.width < 1.13 * hidden + 8
    assert layout.depth == 0 or layout.square >= SMALLEST_SQUARE
    if hidden >= 16 * SMALLEST_SQUARE:
        assert layout.size <= 0.56 * hidden**2
    assert sum(block.numel() for block in layout.split(torch.empty(layout.size))) == layout.size


@pytest.mark.parametrize("hidden", [width for width in WIDTHS if width < 1600])
def test_products_of_views_unpack_to_the_whole_product(hidden: int) -> None:
    layout = PackedSymmetric.of(hidden)
    # Small integers, so that float64 products are exact in any order.
    rows = torch.randint(-9, 10, (11, hidden), generator=torch.Generator().manual_seed(hidden)).double()
    packed = torch.zeros(layout.size, dtype=torch.float64)
    padded = layout.pad(rows)
    for block, (left, right) in zip(layout.split(packed), layout.factors(padded), strict=True):
        # Views, or a batch would be copied once for each cut.
        assert left.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
        assert right.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
        block.copy_(left @ right)
    assert torch.equal(layout.unpack(packed), rows.T @ rows)


def test_rows_with_gaps_are_accepted() -> None:
    layout = PackedSymmetric.of(300)
    rows = torch.zeros(5, layout.width + 16)[:, : layout.width]
    assert all(left.shape[2] == right.shape[1] == 5 for left, right in layout.factors(rows))
