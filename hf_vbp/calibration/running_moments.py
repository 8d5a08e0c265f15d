"""Count, mean, variance and, on request, co-moments of rows that come in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from hf_vbp.calibration.batch_moments import AddProducts, BatchMoments, Workspace
from hf_vbp.calibration.running_comoments import RunningComoments
from hf_vbp.modeling.arithmetic import accumulation_device
from hf_vbp.statistics.moments import Moments


class RunningMoments:
    """The moments of all rows so far, merged by the pairwise formula of :class:`~hf_vbp.statistics.moments.Moments`.

    Args:
        hidden: Number of hidden neurons.
        workspace: Scratch memory.
        device: Device of the activations; the sums are on it, or on the CPU where it has no float64.
        full: Whether to sum co-moments too.
    """

    def __init__(self, hidden: int, workspace: Workspace, device: torch.device, *, full: bool) -> None:
        self.count = 0
        self.mean, self.m2 = torch.zeros(2, hidden, dtype=torch.float64, device=accumulation_device(device))
        self.comoments = RunningComoments(hidden, workspace, device) if full else None

    @property
    def add_products(self) -> AddProducts | None:
        """The function that adds the products of the centered rows of a batch; call it before :meth:`add`."""
        return None if self.comoments is None else self.comoments.add_products

    def add(self, batch: BatchMoments) -> None:
        """Add one batch."""
        before = self.count
        self.count = before + batch.count
        delta = batch.mean - self.mean
        self.mean.add_(delta, alpha=batch.count / self.count)
        self.m2.add_(batch.m2).add_(delta.square_(), alpha=before * batch.count / self.count)
        if self.comoments is not None:
            self.comoments.add_batch(batch)

    def state(self) -> dict[str, torch.Tensor]:
        """Return everything that is needed to continue later with the same result, bit for bit."""
        state = {"count": torch.tensor(self.count, dtype=torch.int64), "mean": self.mean, "m2": self.m2}
        return state if self.comoments is None else {**state, **self.comoments.state()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from the result of :meth:`state`."""
        self.count = int(state["count"])
        self.mean.copy_(state["mean"])
        self.m2.copy_(state["m2"])
        if self.comoments is not None:
            self.comoments.load_state(state)

    def finish(self) -> Moments:
        """Return the moments, on the CPU; nothing can be added afterwards."""
        moments = Moments(self.count, self.mean.cpu().clone(), self.m2.cpu().clone())
        return moments if self.comoments is None else replace(moments, comoment=self.comoments.finish(moments))
