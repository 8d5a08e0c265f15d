"""The running statistics of one site: two halves and, on request, co-moments, output metric and weighted moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from hf_vbp.adapters.base import MLPSite
from hf_vbp.calibration.batch_moments import (
    MAX_ROWS,
    Workspace,
    batch_moments,
    full_precision,
    weighted_moments,
)
from hf_vbp.calibration.running_comoments import RunningComoments
from hf_vbp.calibration.running_moments import RunningMoments
from hf_vbp.calibration.tokens import Tokens
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import StatisticsError
from hf_vbp.modeling.arithmetic import accumulation_device, arithmetic_dtype, to_float64
from hf_vbp.statistics.site_statistics import SiteStatistics

# Images of one block belong to the same half; blocks alternate. By image, so that neither the batch size nor the
# number of processes changes the content of a half.
HALF_BLOCK = 16


class SiteAccumulator:
    """Sums the activations of one site, batch by batch, in memory that does not grow.

    Args:
        site: The site.
        workspace: Scratch memory that all sites share.
        requires: The statistics that are gathered: ``covariances``, ``halves`` (with covariances only),
            ``output_metric`` and ``token_weights`` (with covariances and the metric only).
    """

    def __init__(self, site: MLPSite, workspace: Workspace, requires: Requirements) -> None:
        self.site, self.workspace, self.requires = site, workspace, requires
        self.finite: list[torch.Tensor] = []
        in_halves = requires.covariances and requires.halves
        self.halves = tuple(self._running(in_halves) for _ in range(2))
        self.whole = None
        if requires.covariances and not in_halves:
            self.whole = RunningComoments(site.intermediate_size, workspace, site.fc2.weight.device)
        self.weighted = self._running(True) if requires.token_weights else None
        self.metric = None
        if requires.output_metric:
            device = accumulation_device(site.fc2.weight.device)
            self.metric = torch.zeros(site.hidden_size, site.hidden_size, dtype=torch.float64, device=device)
        self.metric_count = 0

    def add(self, hidden_states: Tokens, spans: Sequence[tuple[int, int, int]]) -> None:
        """Add the activations of one batch; call :meth:`sound` afterwards.

        Args:
            hidden_states: Values ``(images, tokens, hidden)``, any floating dtype.
            spans: ``(half, first, last + 1)`` image positions of the batch, in order.
        """
        with full_precision(hidden_states.values.device):
            for number, start, stop in spans:
                rows, half = hidden_states.rows(start, stop), self.halves[number]
                add_products = half.add_products if self.whole is None else self.whole.add_products
                for part in torch.split(rows, MAX_ROWS):
                    batch = batch_moments(part, self.workspace, add_products)
                    self.finite.append(batch.sound)
                    half.add(batch)
                    if self.whole is not None:
                        self.whole.add_batch(batch)

    def sound(self) -> bool:
        """Return whether all values since the last call were finite; on a GPU this waits for the device."""
        finite = bool(torch.stack(self.finite).all()) if self.finite else True
        self.finite.clear()
        return finite

    def add_gradients(self, gradients: Tokens, hidden_states: Tokens | None = None) -> None:
        """Add the gradients at the output of the site.

        Args:
            gradients: Values ``(images, tokens, out)`` in the dtype of the arithmetic.
            hidden_states: Values ``(images, tokens, hidden)``, the activations of the same tokens, for the weighted
                moments.
        """
        rows = gradients.rows()
        with full_precision(rows.device):
            if self.metric is not None:
                self.metric += to_float64(rows.T @ rows)
                self.metric_count += len(rows)
            if self.weighted is not None and hidden_states is not None:
                weights = gradients.like(token_weights(gradients)[..., None]).rows()[:, 0]
                parts = zip(*(torch.split(x, MAX_ROWS) for x in (hidden_states.rows(), weights)), strict=True)
                for part, part_weights in parts:
                    batch = weighted_moments(part, part_weights, self.workspace, self.weighted.add_products)
                    self.finite.append(batch.sound)
                    self.weighted.add(batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to continue later with the same result, bit for bit."""
        state = {"metric_count": torch.tensor(self.metric_count, dtype=torch.int64)}
        if self.metric is not None:
            state["metric"] = self.metric
        for name, part in self._parts().items():
            state.update({f"{name}.{key}": tensor for key, tensor in part.state().items()})
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from the result of :meth:`state`."""
        self.metric_count = int(state["metric_count"])
        if self.metric is not None:
            self.metric.copy_(state["metric"])
        for name, part in self._parts().items():
            prefix = f"{name}."
            part.load_state({k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)})

    def finish(self) -> SiteStatistics:
        """Return the statistics of the site and free the memory; nothing can be added afterwards.

        Raises:
            StatisticsError: The output metric misses tokens, because the model does not use the output of the site.
        """
        first, second = (half.finish() for half in self.halves)
        moments = first.merge(second)
        if self.whole is not None:
            moments = replace(moments, comoment=self.whole.finish(moments))
        metric = None
        if self.metric is not None:
            if self.metric_count != moments.count:
                raise StatisticsError(
                    f"site {self.site.name}: {moments.count} tokens were seen, but gradients of {self.metric_count}. "
                    "Gather without the output metric, and report this model."
                )
            metric = self.metric.cpu() / max(1, moments.count)
        return SiteStatistics(
            self.site.name,
            self.site.index,
            moments,
            metric,
            # The co-moments of the second half are the total minus those of the first: one matrix less to store.
            (first, second.diagonal()),
            weighted=None if self.weighted is None else self.weighted.finish(),
        )

    def _parts(self) -> dict[str, RunningMoments | RunningComoments]:
        parts: dict[str, RunningMoments | RunningComoments] = {"first": self.halves[0], "second": self.halves[1]}
        parts.update({} if self.whole is None else {"whole": self.whole})
        parts.update({} if self.weighted is None else {"weighted": self.weighted})
        return parts

    def _running(self, full: bool) -> RunningMoments:
        return RunningMoments(self.site.intermediate_size, self.workspace, self.site.fc2.weight.device, full=full)


def token_weights(gradients: Tokens) -> torch.Tensor:
    """Return the weight of each token: half uniform, half proportional to the norm of its gradient.

    ``1/2 + |g_t| / (2 mean_t |g_t|)``, because the loss depends on the output of some tokens more than on that of
    others. The weights of an image sum to its number of tokens, so that every image counts the same and neither
    batches nor processes matter. docs/beyond_the_paper.md gives the measurements behind this choice.

    Args:
        gradients: Values ``(images, tokens, out)``.

    Returns:
        ``(images, tokens)`` in the dtype of the arithmetic; 1 for all tokens of an image without gradients.
    """
    norms = gradients.values.to(arithmetic_dtype(gradients.values.dtype)).norm(dim=-1)
    if gradients.mask is None:
        mean = norms.mean(1, keepdim=True)
    else:
        mean = (norms * gradients.mask).sum(1, keepdim=True) / gradients.mask.sum(1, keepdim=True).clamp(min=1)
    return torch.where(mean > 0, 0.5 + 0.5 * norms / mean, 1.0)


def half_spans(indices: range, block: int = HALF_BLOCK) -> list[tuple[int, int, int]]:
    """Cut a batch into runs of images that belong to one half.

    Args:
        indices: Numbers of the images of the batch in the whole set.
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
