"""The running statistics of one site: two halves and, when asked for, co-moments and the output metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from hf_vbp.adapters import MLPSite
from hf_vbp.errors import StatisticsError
from hf_vbp.moments import Moments, with_diagonal
from hf_vbp.statistics.kernels import (
    MAX_ROWS,
    BatchMoments,
    Workspace,
    batch_moments,
    full_precision,
    mirror_upper_,
)
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

    def __init__(self, site: MLPSite, workspace: Workspace, *, full: bool, metric: bool) -> None:
        self.site = site
        self.workspace = workspace
        self.full = full
        self.device = accumulation_device(site.fc2.weight.device)
        self.counts = [0, 0]
        hidden = site.intermediate_size
        self.means = torch.zeros(2, hidden, dtype=torch.float64, device=self.device)
        self.m2s = torch.zeros(2, hidden, dtype=torch.float64, device=self.device)
        self.finite: list[torch.Tensor] = []
        self.reference: torch.Tensor | None = None
        self.scatter = self._matrix(hidden) if full else None
        self.pending: list[torch.Tensor] = []
        self.metric = self._matrix(site.hidden_size) if metric else None
        self.metric_count = 0

    def add(self, hidden_states: torch.Tensor, spans: Sequence[tuple[int, int, int]]) -> None:
        """Take in the activations of one batch; ask :meth:`sound` afterwards.

        Args:
            hidden_states: ``(images, tokens, hidden)``, any floating dtype.
            spans: ``(half, first, last + 1)`` image positions of the batch, in order.
        """
        with full_precision(hidden_states.device):
            for half, start, stop in spans:
                rows = hidden_states[start:stop].reshape(-1, hidden_states.shape[-1])
                for part in torch.split(rows, MAX_ROWS):
                    batch = batch_moments(part, self.workspace, self.scatter)
                    self.finite.append(batch.sound)
                    self._add_to_half(half, batch)
                    if self.full:
                        self._queue(batch)

    def sound(self) -> bool:
        """Return whether everything since the last call was finite; on a GPU this waits for the device."""
        finite = bool(torch.stack(self.finite).all()) if self.finite else True
        self.finite.clear()
        return finite

    def add_gradients(self, gradients: torch.Tensor) -> None:
        """Take in the gradients of the log-likelihood at the output of the site, ``(..., out)`` float32."""
        rows = gradients.reshape(-1, gradients.shape[-1])
        if self.metric is not None:
            with full_precision(rows.device):
                self.metric += (rows.T @ rows).to(self.device)
            self.metric_count += len(rows)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to go on later to the same bits."""
        state = {
            "counts": torch.tensor([*self.counts, self.metric_count], dtype=torch.int64),
            "means": self.means,
            "m2s": self.m2s,
        }
        optional = {"scatter": self.scatter, "reference": self.reference, "metric": self.metric}
        state.update({name: tensor for name, tensor in optional.items() if tensor is not None})
        if self.pending:
            state["pending"] = torch.stack(self.pending)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        first, second, self.metric_count = state["counts"].tolist()
        self.counts = [first, second]
        self.means.copy_(state["means"])
        self.m2s.copy_(state["m2s"])
        if self.scatter is not None:
            self.scatter.copy_(state["scatter"])
            self.reference = state["reference"].to(self.device) if "reference" in state else None
            self.pending = list(state["pending"].to(self.device)) if "pending" in state else []
        if self.metric is not None:
            self.metric.copy_(state["metric"])

    def finish(self) -> SiteStatistics:
        """Return the statistics of the site and give up the memory; nothing can be added afterwards.

        Raises:
            StatisticsError: The output metric missed tokens, because the output of the site was not used.
        """
        halves = self._half_moments(0), self._half_moments(1)
        moments = halves[0].merge(halves[1])
        if self.scatter is not None:
            moments = replace(moments, comoment=self._comoment(moments))
        if self.metric is None:
            return SiteStatistics(self.site.name, self.site.index, moments, None, halves)
        if self.metric_count != moments.count:
            raise StatisticsError(
                f"site {self.site.name}: {moments.count} tokens went in and gradients of {self.metric_count} "
                "came back; the model does not use the output of this site, so leave the output metric out"
            )
        metric = self.metric.cpu() / max(1, moments.count)
        return SiteStatistics(self.site.name, self.site.index, moments, metric, halves)

    def _comoment(self, moments: Moments) -> torch.Tensor:
        """Turn the scatter about the reference into the co-moments about the mean, in place."""
        scatter = self.scatter
        self.scatter = None
        if scatter is None or self.reference is None:
            return self._matrix(self.site.intermediate_size).cpu()
        self._flush(scatter)
        delta = moments.mean - self.reference.cpu()
        scatter = mirror_upper_(scatter.cpu().addr_(delta, delta, alpha=-moments.count))
        return with_diagonal(scatter, moments.m2)

    def _add_to_half(self, half: int, batch: BatchMoments) -> None:
        """Merge one batch into a half by the pairwise formula; see :class:`~hf_vbp.moments.Moments`."""
        before = self.counts[half]
        count = self.counts[half] = before + batch.count
        delta = batch.mean.to(self.device, torch.float64) - self.means[half]
        self.means[half].add_(delta, alpha=batch.count / count)
        self.m2s[half].add_(batch.m2.to(self.device)).add_(delta.square_(), alpha=before * batch.count / count)

    def _queue(self, batch: BatchMoments) -> None:
        if self.reference is None:
            self.reference = batch.mean.clone()
        self.pending.append(torch.stack([batch.mean - self.reference, batch.mean - batch.shift]) * batch.count**0.5)
        if len(self.pending) >= PENDING_ROWS and self.scatter is not None:
            self._flush(self.scatter)

    def _flush(self, scatter: torch.Tensor) -> None:
        if self.pending:
            between, missed = torch.stack(self.pending, dim=1)
            scatter.addmm_(between.T, between).addmm_(missed.T, missed, alpha=-1)
            self.pending.clear()

    def _half_moments(self, half: int) -> Moments:
        return Moments(self.counts[half], self.means[half].cpu().clone(), self.m2s[half].cpu().clone())

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
