"""The packed lower half of a symmetric matrix of products, as batches of equal squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

# Smallest width of the squares on the diagonal. They are computed whole, so narrower ones would save arithmetic, but
# products of narrower matrices are slow.
SMALLEST_SQUARE = 64
# The width of the squares is a multiple of this, for vector instructions.
ALIGNMENT = 8


@dataclass(frozen=True)
class PackedSymmetric:
    """The layout of the lower half of a ``(width, width)`` matrix, packed without gaps.

    The matrix is cut into four: the lower left quarter is kept, the two quarters on the diagonal are cut again, and
    after ``depth`` cuts the squares on the diagonal are kept whole. All blocks of one depth have one shape, so one
    batched product computes them, and about six calls compute the whole lower half. This takes 7 to 10 % less time
    than one product for each column of blocks.

    Attributes:
        hidden: Number of neurons.
        depth: Number of cuts.
        square: Width of the squares on the diagonal.
    """

    hidden: int
    depth: int
    square: int

    @staticmethod
    @lru_cache(maxsize=64)
    def of(hidden: int) -> PackedSymmetric:
        """Return the cut of the matrix of ``hidden`` neurons that keeps the fewest values."""
        depths = range(max(1, (hidden // SMALLEST_SQUARE).bit_length()))
        cuts = (PackedSymmetric(hidden, depth, -(-hidden // (ALIGNMENT << depth)) * ALIGNMENT) for depth in depths)
        return min(cuts, key=lambda cut: cut.size)

    @property
    def width(self) -> int:
        """``hidden``, rounded up to a width that can be cut; the added columns are always 0."""
        return self.square << self.depth

    @property
    def size(self) -> int:
        """Number of packed values."""
        return self.width * (self.width + self.square) // 2

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``values`` ``(..., hidden)`` padded with zeros to ``(..., width)``."""
        missing = self.width - values.shape[-1]
        return torch.nn.functional.pad(values, (0, missing)) if missing else values

    def split(self, packed: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the blocks of each depth as views ``(count, m, m)`` of ``packed``, the diagonal last."""
        offset = 0
        for level in range(self.depth + 1):
            last = level == self.depth
            count, side = 1 << level, self.square if last else self.width >> (level + 1)
            yield packed[offset : offset + count * side * side].view(count, side, side)
            offset += count * side * side

    def factors(self, values: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield, in the order of :meth:`split`, the views whose products are the blocks of ``values^T values``.

        Args:
            values: ``(rows, width)``.

        Returns:
            Pairs of ``(count, m, rows)`` and ``(count, rows, m)``.
        """
        for level in range(self.depth):
            count = 1 << level
            halves = values.view(-1, count, 2, self.width // (2 * count))
            yield halves[:, :, 1].permute(1, 2, 0), halves[:, :, 0].transpose(0, 1)
        squares = values.view(-1, 1 << self.depth, self.square)
        yield squares.permute(1, 2, 0), squares.transpose(0, 1)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Return the symmetric matrix ``(hidden, hidden)``."""
        matrix = packed.new_empty(self.width, self.width)
        for level, blocks in enumerate(self.split(packed)):
            side = blocks.shape[-1]
            for number, block in enumerate(blocks):
                if level == self.depth:
                    here = slice(number * side, (number + 1) * side)
                    matrix[here, here] = block.tril() + block.tril(-1).T
                else:
                    left = slice(2 * number * side, (2 * number + 1) * side)
                    below = slice(left.stop, left.stop + side)
                    matrix[below, left] = block
                    matrix[left, below] = block.T
        return matrix[: self.hidden, : self.hidden].contiguous()
