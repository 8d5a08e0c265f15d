"""Running co-moments: products of each batch, float64 sums, the lower half of the matrix only."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_vbp.calibration.batch_moments import BatchMoments, Workspace
from hf_vbp.calibration.packed_symmetric import PackedSymmetric
from hf_vbp.modeling.arithmetic import accumulation_device
from hf_vbp.statistics.moments import Moments, with_diagonal

# Rank-one terms that are queued before they are added: one pass over a large matrix instead of many.
PENDING_TERMS = 32


class RunningComoments:
    """Sums co-moments batch by batch, in memory that does not grow.

    The sums are about a fixed reference, the mean of the first batch,
    ``S = sum_b [gram_b - n_b e_b e_b^T + n_b d_b d_b^T]``, with ``e_b`` the difference between the mean of batch b and
    its shift, and ``d_b`` the difference between that mean and the reference. The rank-one terms are queued and added
    by one product, and at the end the reference is replaced by the mean, all in float64. A batch therefore adds the
    same numbers in any process, and the sums of several processes differ by float64 rounding only.

    Args:
        hidden: Number of hidden neurons.
        workspace: Scratch memory.
        device: Device of the activations; the sums are on it, or on the CPU where it has no float64.
    """

    def __init__(self, hidden: int, workspace: Workspace, device: torch.device) -> None:
        self.layout, self.workspace, self.device = PackedSymmetric.of(hidden), workspace, accumulation_device(device)
        self.sums = torch.zeros(self.layout.size, dtype=torch.float64, device=self.device)
        self.reference: torch.Tensor | None = None
        self.pending: list[torch.Tensor] = []

    def add_products(self, centered: torch.Tensor) -> None:
        """Add ``centered^T centered`` of ``(rows, hidden or layout.width)`` float32 or float64 values."""
        factors = self.layout.factors(self.layout.pad(centered))
        for block, (left, right) in zip(self.layout.split(self.sums), factors, strict=True):
            if centered.dtype == torch.float64:
                block.baddbmm_(left, right)
                continue
            shape = tuple(block.shape)
            product = torch.bmm(left, right, out=self.workspace.take("product", shape, centered.device))
            # Moved and converted first: a device without float64 cannot convert, and adding float32 to float64 in one
            # operation takes three times as long.
            wide = self.workspace.take("wide", shape, self.device, torch.float64)
            block += wide.copy_(product.to(self.device))

    def add_batch(self, batch: BatchMoments) -> None:
        """Queue the rank-one terms of a batch whose products were added."""
        if self.reference is None:
            self.reference = batch.mean.clone()
        terms = torch.stack([batch.mean - self.reference, batch.mean - batch.shift])
        self.pending.append(terms * batch.count**0.5)
        if len(self.pending) >= PENDING_TERMS:
            self._add_pending()

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to continue later with the same result, bit for bit."""
        state = {"sums": self.sums}
        if self.reference is not None:
            state["reference"] = self.reference
        if self.pending:
            state["pending"] = torch.stack(self.pending)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from the result of :meth:`state`."""
        self.sums.copy_(state["sums"])
        self.reference = state["reference"].to(self.device) if "reference" in state else None
        self.pending = list(state["pending"].to(self.device)) if "pending" in state else []

    def finish(self, moments: Moments) -> torch.Tensor:
        """Return the co-moments ``(hidden, hidden)`` float64 about the mean of ``moments``, on the CPU.

        Frees the sums; nothing can be added afterwards.
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
