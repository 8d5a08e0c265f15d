"""The running statistics of one site: two halves and, when asked for, co-moments, metric and weighted moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from hf_vbp.adapters.base import MLPSite
from hf_vbp.calibration.batch_moments import MAX_ROWS, Workspace, batch_moments, full_precision, weighted_moments
from hf_vbp.calibration.running_comoments import Comoments
from hf_vbp.calibration.running_moments import RunningMoments
from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.site_statistics import SiteStatistics

# Images of one block go to the same half; blocks alternate. By image, so that neither the batch size nor the
# number of processes changes what a half holds.
HALF_BLOCK = 16


@dataclass(frozen=True)
class Depth:
    """What is gathered at every site besides means and variances.

    Attributes:
        full: Co-moments of all images.
        halves: Co-moments of the halves too; only where ``full``.
        metric: The output metric.
        weighted: Moments in which tokens count by the norm of their gradient; only where ``full`` and ``metric``.
    """

    full: bool = False
    halves: bool = False
    metric: bool = False
    weighted: bool = False


def accumulation_device(device: torch.device) -> torch.device:
    """Return where float64 sums are kept: on ``device`` unless it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class SiteAccumulator:
    """Takes in the activations of one site, batch by batch, in memory that does not grow."""

    def __init__(self, site: MLPSite, workspace: Workspace, depth: Depth) -> None:
        self.site, self.workspace, self.depth = site, workspace, depth
        self.device = accumulation_device(site.fc2.weight.device)
        self.finite: list[torch.Tensor] = []
        self.halves = tuple(self._running(depth.full and depth.halves) for _ in range(2))
        self.whole = None
        if depth.full and not depth.halves:
            self.whole = Comoments(site.intermediate_size, workspace, self.device)
        self.weighted = self._running(True) if depth.weighted else None
        out = site.hidden_size
        self.metric = torch.zeros(out, out, dtype=torch.float64, device=self.device) if depth.metric else None
        self.metric_count = 0

    def add(self, hidden_states: torch.Tensor, spans: Sequence[tuple[int, int, int]]) -> None:
        """Take in the activations of one batch; ask :meth:`sound` afterwards.

        Args:
            hidden_states: ``(images, tokens, hidden)``, any floating dtype.
            spans: ``(half, first, last + 1)`` image positions of the batch, in order.
        """
        with full_precision(hidden_states.device):
            for number, start, stop in spans:
                rows, half = hidden_states[start:stop].reshape(-1, hidden_states.shape[-1]), self.halves[number]
                add_products = half.add_products if self.whole is None else self.whole.add_products
                for part in torch.split(rows, MAX_ROWS):
                    batch = batch_moments(part, self.workspace, add_products)
                    self.finite.append(batch.sound)
                    half.add(batch)
                    if self.whole is not None:
                        self.whole.add_batch(batch)

    def sound(self) -> bool:
        """Return whether everything since the last call was finite; on a GPU this waits for the device."""
        finite = bool(torch.stack(self.finite).all()) if self.finite else True
        self.finite.clear()
        return finite

    def add_gradients(self, gradients: torch.Tensor, hidden_states: torch.Tensor | None = None) -> None:
        """Take in the gradients of the log-likelihood at the output of the site.

        Args:
            gradients: ``(images, tokens, out)`` float32.
            hidden_states: ``(images, tokens, hidden)``, the activations that they belong to, for the weighted moments.
        """
        rows = gradients.flatten(0, 1)
        with full_precision(rows.device):
            if self.metric is not None:
                self.metric += (rows.T @ rows).to(self.device)
                self.metric_count += len(rows)
            if self.weighted is not None and hidden_states is not None:
                weights = token_weights(gradients).flatten()
                parts = zip(*(torch.split(x, MAX_ROWS) for x in (hidden_states.flatten(0, 1), weights)), strict=True)
                for part, part_weights in parts:
                    batch = weighted_moments(part, part_weights, self.workspace, self.weighted.add_products)
                    self.finite.append(batch.sound)
                    self.weighted.add(batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to go on later to the same bits."""
        state = {"metric_count": torch.tensor(self.metric_count, dtype=torch.int64)}
        if self.metric is not None:
            state["metric"] = self.metric
        for name, part in self._parts().items():
            state.update({f"{name}.{key}": tensor for key, tensor in part.state().items()})
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        self.metric_count = int(state["metric_count"])
        if self.metric is not None:
            self.metric.copy_(state["metric"])
        for name, part in self._parts().items():
            prefix = f"{name}."
            part.load_state({k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)})

    def finish(self) -> SiteStatistics:
        """Return the statistics of the site and give up the memory; nothing can be added afterwards.

        Raises:
            StatisticsError: The output metric missed tokens, because the output of the site was not used.
        """
        first, second = (half.finish() for half in self.halves)
        moments = first.merge(second)
        if self.whole is not None:
            moments = replace(moments, comoment=self.whole.finish(moments))
        metric = None
        if self.metric is not None:
            if self.metric_count != moments.count:
                raise StatisticsError(
                    f"site {self.site.name}: {moments.count} tokens went in and gradients of {self.metric_count} "
                    "came back; the model does not use the output of this site, so leave the output metric out"
                )
            metric = self.metric.cpu() / max(1, moments.count)
        return SiteStatistics(
            self.site.name,
            self.site.index,
            moments,
            metric,
            # The co-moments of the second half are those of both less those of the first: one matrix less to hold.
            (first, second.diagonal()),
            weighted=None if self.weighted is None else self.weighted.finish(),
        )

    def _parts(self) -> dict[str, RunningMoments | Comoments]:
        parts: dict[str, RunningMoments | Comoments] = {"first": self.halves[0], "second": self.halves[1]}
        parts.update({} if self.whole is None else {"whole": self.whole})
        parts.update({} if self.weighted is None else {"weighted": self.weighted})
        return parts

    def _running(self, full: bool) -> RunningMoments:
        return RunningMoments(self.site.intermediate_size, self.workspace, self.device, full=full)


def token_weights(gradients: torch.Tensor) -> torch.Tensor:
    """Return how much each token counts: half alike, half by the norm of its gradient among those of its image.

    ``1/2 + |g_t| / (2 mean_t |g_t|)``: the loss cares for the output of some tokens more than for that of others, and
    least squares should too. The weights of an image add up to its tokens, so that every image counts the same and
    neither batches nor processes matter. Why half and half, and why by image: docs/beyond_the_paper.md.

    Args:
        gradients: ``(images, tokens, out)``.

    Returns:
        ``(images, tokens)`` float32; 1 for all tokens of an image without gradients.
    """
    norms = gradients.float().norm(dim=-1)
    mean = norms.mean(1, keepdim=True)
    return torch.where(mean > 0, 0.5 + 0.5 * norms / mean, 1.0)


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
