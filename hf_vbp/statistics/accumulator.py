"""The running statistics of one site: two halves and, when asked for, co-moments and the output metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from hf_vbp.adapters import MLPSite
from hf_vbp.errors import StatisticsError
from hf_vbp.moments import Moments
from hf_vbp.statistics.comoments import Comoments
from hf_vbp.statistics.kernels import MAX_ROWS, BatchMoments, Workspace, batch_moments, full_precision
from hf_vbp.statistics.store import SiteStatistics

# Images of one block go to the same half; blocks alternate. By image, so that neither the batch size nor the
# number of processes changes what a half holds.
HALF_BLOCK = 16


def accumulation_device(device: torch.device) -> torch.device:
    """Return where float64 sums are kept: on ``device`` unless it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class SiteAccumulator:
    """Takes in the activations of one site, batch by batch, in memory that does not grow."""

    def __init__(self, site: MLPSite, workspace: Workspace, *, full: bool, metric: bool) -> None:
        self.site = site
        self.workspace = workspace
        self.device = accumulation_device(site.fc2.weight.device)
        self.counts = [0, 0]
        hidden = site.intermediate_size
        self.means = torch.zeros(2, hidden, dtype=torch.float64, device=self.device)
        self.m2s = torch.zeros(2, hidden, dtype=torch.float64, device=self.device)
        self.finite: list[torch.Tensor] = []
        self.comoments = tuple(Comoments(hidden, workspace, self.device) for _ in range(2)) if full else None
        out = site.hidden_size
        self.metric = torch.zeros(out, out, dtype=torch.float64, device=self.device) if metric else None
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
                comoments = None if self.comoments is None else self.comoments[half]
                for part in torch.split(rows, MAX_ROWS):
                    batch = batch_moments(part, self.workspace, None if comoments is None else comoments.add_products)
                    self.finite.append(batch.sound)
                    self._add_to_half(half, batch)
                    if comoments is not None:
                        comoments.add_batch(batch)

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
        if self.metric is not None:
            state["metric"] = self.metric
        for half, comoments in enumerate(self.comoments or ()):
            state.update({f"comoments.{half}.{name}": tensor for name, tensor in comoments.state().items()})
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        first, second, self.metric_count = state["counts"].tolist()
        self.counts = [first, second]
        self.means.copy_(state["means"])
        self.m2s.copy_(state["m2s"])
        for half, comoments in enumerate(self.comoments or ()):
            prefix = f"comoments.{half}."
            mine = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
            comoments.load_state(mine)
        if self.metric is not None:
            self.metric.copy_(state["metric"])

    def finish(self) -> SiteStatistics:
        """Return the statistics of the site and give up the memory; nothing can be added afterwards.

        Raises:
            StatisticsError: The output metric missed tokens, because the output of the site was not used.
        """
        first, second = self._half_moments(0), self._half_moments(1)
        moments = first.merge(second)
        # The co-moments of the second half are those of both less those of the first: one matrix less to hold.
        halves = first, second.diagonal()
        if self.metric is None:
            return SiteStatistics(self.site.name, self.site.index, moments, None, halves)
        if self.metric_count != moments.count:
            raise StatisticsError(
                f"site {self.site.name}: {moments.count} tokens went in and gradients of {self.metric_count} "
                "came back; the model does not use the output of this site, so leave the output metric out"
            )
        metric = self.metric.cpu() / max(1, moments.count)
        return SiteStatistics(self.site.name, self.site.index, moments, metric, halves)

    def _add_to_half(self, half: int, batch: BatchMoments) -> None:
        """Merge one batch into a half by the pairwise formula; see :class:`~hf_vbp.moments.Moments`."""
        before = self.counts[half]
        count = self.counts[half] = before + batch.count
        delta = batch.mean.to(self.device, torch.float64) - self.means[half]
        self.means[half].add_(delta, alpha=batch.count / count)
        self.m2s[half].add_(batch.m2.to(self.device)).add_(delta.square_(), alpha=before * batch.count / count)

    def _half_moments(self, half: int) -> Moments:
        moments = Moments(self.counts[half], self.means[half].cpu().clone(), self.m2s[half].cpu().clone())
        return moments if self.comoments is None else replace(moments, comoment=self.comoments[half].finish(moments))


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
