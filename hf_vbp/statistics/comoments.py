"""Running co-moments of one half of a pass: float32 products, float64 sums, the lower blocks only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch

from hf_vbp.moments import Moments, with_diagonal
from hf_vbp.statistics.kernels import BatchMoments, Workspace

# Squares on the diagonal that are computed whole: narrow enough to compute little twice, wide enough for the matrix
# product to be fast.
SQUARE = 96
# Larger squares are cut at a multiple of so many neurons.
ALIGNMENT = 32
# Rank-one terms that are gathered before the co-moments are touched: one pass over a big matrix instead of many.
PENDING_TERMS = 32


class Comoments:
    """Takes in the rows of one half of a pass, batch by batch, in memory that does not grow.

    The sums are kept about a fixed reference, the mean of the first batch,
    ``S = sum_b [gram_b - n_b e_b e_b^T + n_b d_b d_b^T]`` with ``e_b`` what the shift of batch b missed its mean
    by and ``d_b`` the distance of that mean from the reference. The rank-one terms are queued and added by one
    product, and the reference is exchanged for the mean at the end, all in float64. So every batch adds the same
    numbers wherever it is processed, and the sums of several processes differ by float64 rounding only.

    Args:
        hidden: Number of hidden neurons.
        workspace: Scratch memory.
        device: Where the sums are kept.
    """

    def __init__(self, hidden: int, workspace: Workspace, device: torch.device) -> None:
        self.hidden, self.workspace, self.device = hidden, workspace, device
        self.sums = torch.zeros(_packed_size(hidden), dtype=torch.float64, device=device)
        self.reference: torch.Tensor | None = None
        self.pending: list[torch.Tensor] = []

    def add_products(self, centred: torch.Tensor) -> None:
        """Add ``centred^T centred`` of ``(rows, hidden)`` float32 or float64 values, on any device."""
        for rows, columns, block in self._blocks(self.sums):
            left, right = centred[:, rows].T, centred[:, columns]
            if centred.dtype == torch.float64:
                block += left @ right
                continue
            shape = tuple(block.shape)
            product = torch.mm(left, right, out=self.workspace.take("product", shape, centred.device))
            # Converted first: adding float32 to float64 in one operation takes three times as long.
            block += self.workspace.take("wide", shape, self.device, torch.float64).copy_(product)

    def add_batch(self, batch: BatchMoments) -> None:
        """Queue what tells the mean of ``batch``, whose products were added, from its shift and the reference."""
        if self.reference is None:
            self.reference = batch.mean.to(self.device, copy=True)
        mean = batch.mean.to(self.device)
        terms = torch.stack([mean - self.reference, mean - batch.shift.to(self.device)])
        self.pending.append(terms * batch.count**0.5)
        if len(self.pending) >= PENDING_TERMS:
            self._add_pending()

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to go on later to the same bits."""
        state = {"sums": self.sums}
        if self.reference is not None:
            state["reference"] = self.reference
        if self.pending:
            state["pending"] = torch.stack(self.pending)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        self.sums.copy_(state["sums"])
        self.reference = state["reference"].to(self.device) if "reference" in state else None
        self.pending = list(state["pending"].to(self.device)) if "pending" in state else []

    def finish(self, moments: Moments) -> torch.Tensor:
        """Return the co-moments ``(hidden, hidden)`` float64 about the mean of ``moments``, on the CPU.

        The sums are given up; nothing can be added afterwards.
        """
        self._add_pending()
        sums, self.sums = self.sums.cpu(), self.sums.new_empty(0)
        matrix = torch.zeros(self.hidden, self.hidden, dtype=torch.float64)
        if self.reference is None:
            return matrix
        distance = (moments.mean - self.reference.cpu()) * moments.count**0.5
        for rows, columns, block in self._blocks(sums):
            block.addr_(distance[rows], distance[columns], alpha=-1)
            matrix[columns, rows] = block.T
            matrix[rows, columns] = block
            if rows == columns:
                matrix[rows, columns] = block.tril() + block.tril(-1).T
        return with_diagonal(matrix, moments.m2)

    def _add_pending(self) -> None:
        if self.pending:
            between, missed = torch.stack(self.pending, dim=1)
            for rows, columns, block in self._blocks(self.sums):
                block.addmm_(between[:, rows].T, between[:, columns])
                block.addmm_(missed[:, rows].T, missed[:, columns], alpha=-1)
            self.pending.clear()

    def _blocks(self, packed: torch.Tensor) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Yield the rows, the columns and the view of each block that is kept, one after the other in ``packed``."""
        offset = 0
        for rows, columns in _lower_blocks(self.hidden):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            yield rows, columns, packed[offset : offset + height * width].view(height, width)
            offset += height * width


@lru_cache(maxsize=64)
def _lower_blocks(hidden: int) -> tuple[tuple[slice, slice], ...]:
    """Cover a square matrix from its diagonal down: every square is cut into two and the rectangle below the first."""

    def cut(start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        if stop - start <= SQUARE:
            yield slice(start, stop), slice(start, stop)
            return
        middle = start + math.ceil((stop - start) / (2 * ALIGNMENT)) * ALIGNMENT
        yield slice(middle, stop), slice(start, middle)
        yield from cut(start, middle)
        yield from cut(middle, stop)

    return tuple(cut(0, hidden))


def _packed_size(hidden: int) -> int:
    return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in _lower_blocks(hidden))
