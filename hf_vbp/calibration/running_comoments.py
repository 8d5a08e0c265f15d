"""Running co-moments of one half of a pass: float32 products, float64 sums, the lower half only."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_vbp.calibration.batch_moments import BatchMoments, Workspace
from hf_vbp.calibration.packed_symmetric import LowerHalf
from hf_vbp.statistics.moments import Moments, with_diagonal

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
        self.layout, self.workspace, self.device = LowerHalf.of(hidden), workspace, device
        self.sums = torch.zeros(self.layout.size, dtype=torch.float64, device=device)
        self.reference: torch.Tensor | None = None
        self.pending: list[torch.Tensor] = []

    def add_products(self, centred: torch.Tensor) -> None:
        """Add ``centred^T centred`` of ``(rows, hidden or layout.width)`` float32 or float64 values, on any device."""
        factors = self.layout.factors(self.layout.pad(centred))
        for block, (left, right) in zip(self.layout.split(self.sums), factors, strict=True):
            if centred.dtype == torch.float64:
                block += torch.bmm(left, right)
                continue
            shape = tuple(block.shape)
            product = torch.bmm(left, right, out=self.workspace.take("product", shape, centred.device))
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
        if self.reference is not None:
            distance = (moments.mean - self.reference.cpu()) * moments.count**0.5
            self._add_outer(sums, distance[None], -1)
        return with_diagonal(self.layout.unpack(sums), moments.m2)

    def _add_pending(self) -> None:
        if self.pending:
            between, missed = torch.stack(self.pending, dim=1)
            self._add_outer(self.sums, between, 1)
            self._add_outer(self.sums, missed, -1)
            self.pending.clear()

    def _add_outer(self, sums: torch.Tensor, terms: torch.Tensor, sign: int) -> None:
        """Add ``sign * terms^T terms`` of ``(terms, hidden)`` float64 values to ``sums``."""
        factors = self.layout.factors(self.layout.pad(terms))
        for block, (left, right) in zip(self.layout.split(sums), factors, strict=True):
            block.baddbmm_(left, right, alpha=sign)
