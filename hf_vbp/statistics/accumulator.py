"""The running statistics of one site: two halves and, when asked for, co-moments and the output metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hf_vbp.adapters import MLPSite
from hf_vbp.moments import Moments, with_diagonal
from hf_vbp.statistics.kernels import BatchMoments, batch_moments, mirror_upper
from hf_vbp.statistics.store import SiteStatistics

# Images of one block go to the same half; blocks alternate. By image, so that neither the batch size nor the
# number of processes changes what a half holds.
HALF_BLOCK = 16
# Rank-one terms that are gathered before the co-moments are touched: one pass over a big matrix instead of many.
PENDING_ROWS = 32


def accumulation_device(device: torch.device) -> torch.device:
    """Return where float64 sums are kept: on ``device`` unless it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class SiteAccumulator:
    """Takes in the activations of one site, batch by batch, in memory that does not grow.

    The co-moments are kept about a fixed reference, the mean of the first batch,
    ``S = sum_b [gram_b - n_b e_b e_b^T + n_b d_b d_b^T]`` with ``e_b`` what the shift of batch b missed its mean
    by and ``d_b`` the distance of that mean from the reference. The rank-one terms are queued and added by one
    product, and the reference is exchanged for the mean at the end, all in float64.
    """

    def __init__(self, site: MLPSite, *, full: bool, metric: bool) -> None:
        self.site = site
        self.full = full
        self.device = accumulation_device(site.fc2.weight.device)
        self.halves = [self._zero_half(), self._zero_half()]
        self.reference: torch.Tensor | None = None
        self.scatter = self._matrix(site.intermediate_size) if full else None
        self.pending: list[torch.Tensor] = []
        self.metric = self._matrix(site.hidden_size) if metric else None
        self.metric_count = 0

    def add(self, hidden_states: torch.Tensor, spans: Sequence[tuple[int, int, int]]) -> None:
        """Take in the activations of one batch.

        Args:
            hidden_states: ``(images, tokens, hidden)``, any floating dtype.
            spans: ``(half, first, last + 1)`` image positions of the batch, in order.
        """
        for half, start, stop in spans:
            rows = hidden_states[start:stop].reshape(-1, hidden_states.shape[-1])
            batch = batch_moments(rows, gram=self.full)
            self._add_to_half(half, batch)
            if self.full:
                self._add_scatter(batch)

    def add_gradients(self, gradients: torch.Tensor) -> None:
        """Take in the gradients of the log-likelihood at the output of the site, ``(..., out)``."""
        rows = gradients.reshape(-1, gradients.shape[-1]).float()
        assert_metric = self.metric
        if assert_metric is not None:
            assert_metric += (rows.T @ rows).to(self.device, torch.float64)
            self.metric_count += len(rows)

    def halves_moments(self) -> tuple[Moments, Moments]:
        """Return the moments of the two halves so far."""
        return (self._half_moments(0), self._half_moments(1))

    def moments(self) -> Moments:
        """Return the moments of everything that was taken in."""
        first, second = self.halves_moments()
        total = first.merge(second)
        if self.scatter is None or self.reference is None:
            return total
        self._flush()
        comoment = mirror_upper(self.scatter.cpu())
        delta = total.mean - self.reference.cpu()
        comoment.addr_(delta, delta, alpha=-total.count)
        return Moments(total.count, total.mean, total.m2, with_diagonal(comoment, total.m2))

    def statistics(self) -> SiteStatistics:
        """Return the finished statistics of the site."""
        halves = self.halves_moments()
        metric = None if self.metric is None else self.metric.cpu() / max(1, self.metric_count)
        both = halves if all(half.count > 1 for half in halves) else None
        return SiteStatistics(self.site.name, self.site.index, self.moments(), metric, both)

    def _add_to_half(self, half: int, batch: BatchMoments) -> None:
        state = self.halves[half]
        before = int(state["count"])
        count = before + batch.count
        delta = batch.mean.to(self.device) - state["mean"]
        state["mean"] += delta * (batch.count / count)
        state["m2"] += batch.m2.to(self.device)
        state["m2"] += delta.square_() * (before * batch.count / count)
        state["count"] += batch.count

    def _add_scatter(self, batch: BatchMoments) -> None:
        mean, shift = batch.mean.to(self.device), batch.shift.to(self.device)
        if self.reference is None:
            self.reference = mean.clone()
        if self.scatter is not None and batch.gram is not None:
            self.scatter += batch.gram.to(self.device)
        self.pending.append(torch.stack([mean - self.reference, mean - shift]) * batch.count**0.5)
        if len(self.pending) >= PENDING_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.scatter is None or not self.pending:
            return
        between, missed = torch.stack(self.pending, dim=1)
        self.scatter.addmm_(between.T, between)
        self.scatter.addmm_(missed.T, missed, alpha=-1)
        self.pending.clear()

    def _half_moments(self, half: int) -> Moments:
        state: Mapping[str, torch.Tensor] = self.halves[half]
        return Moments(int(state["count"]), state["mean"].cpu().clone(), state["m2"].cpu().clone())

    def _zero_half(self) -> dict[str, torch.Tensor]:
        zeros = torch.zeros(self.site.intermediate_size, dtype=torch.float64, device=self.device)
        return {"count": torch.zeros((), dtype=torch.int64), "mean": zeros, "m2": zeros.clone()}

    def _matrix(self, size: int) -> torch.Tensor:
        return torch.zeros(size, size, dtype=torch.float64, device=self.device)


def half_spans(indices: range, block: int = HALF_BLOCK) -> list[tuple[int, int, int]]:
    """Cut a batch into runs of images that belong to one half.

    Args:
        indices: Global indices of the images of the batch.
        block: Images per block; blocks alternate between the halves.

    Returns:
        ``(half, first, last + 1)`` by position in the batch.
    """
    spans: list[tuple[int, int, int]] = []
    for position, index in enumerate(indices):
        half = index // block % 2
        if spans and spans[-1][0] == half:
            spans[-1] = (half, spans[-1][1], position + 1)
        else:
            spans.append((half, position, position + 1))
    return spans
