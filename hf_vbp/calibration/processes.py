"""The processes that share one pass, and the values that they exchange."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import broadcast, broadcast_object_list, gather_object

from hf_vbp import errors
from hf_vbp.distributed import is_launched, launched_state
from hf_vbp.statistics.moments import Moments
from hf_vbp.statistics.site_statistics import SiteStatistics


@dataclass(frozen=True)
class Processes:
    """This process and the number of all.

    Attributes:
        index: Number of this process, from 0.
        count: Number of processes, over all nodes.
        device: Device of tensors that are sent.
    """

    index: int
    count: int
    device: torch.device

    @classmethod
    def of(cls, accelerator: Any | None) -> Processes:
        """Return the processes of ``accelerator``, or those in the environment of a launcher."""
        if accelerator is None and not is_launched():
            return cls.alone()
        state = accelerator if accelerator is not None else launched_state()
        return cls(int(state.process_index), int(state.num_processes), torch.device(state.device))

    @classmethod
    def alone(cls) -> Processes:
        """Return this process as the only one, for work that one of several does."""
        return cls(0, 1, torch.device("cpu"))

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self.count > 1

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, in order; a small picklable object."""
        return list(gather_object([value])) if self.several else [value]

    def first(self, value: Any) -> Any:
        """Return the value of the first process."""
        if not self.several:
            return value
        values = [value]
        broadcast_object_list(values, from_process=0)
        return values[0]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, added in their order, the same bits in each."""
        if not self.several:
            return tensor
        total = self._receive_tensor(tensor, 0)
        for source in range(1, self.count):
            total += self._receive_tensor(tensor, source)
        return total

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error of this package that one process raises in the block in every process.

        A process that failed must not leave the others waiting for it until they time out.

        Raises:
            HfVbpError: The failure of the first process that has one.
        """
        failure: errors.HfVbpError | None = None
        try:
            yield
        except errors.HfVbpError as error:
            failure = error
        own = None if failure is None else (type(failure).__name__, str(failure))
        failures = [(index, found) for index, found in enumerate(self.gather(own)) if found is not None]
        if failure is not None and failures[0][0] == self.index:
            raise failure
        if failures:
            index, (name, message) = failures[0]
            kind = getattr(errors, name, errors.StatisticsError)
            raise kind(f"process {index} of {self.count}: {message}") from failure

    def merge_site(self, site: SiteStatistics) -> SiteStatistics:
        """Return the statistics of ``site`` over all processes, the same bits in each.

        Every process sends its own counts, means and sums in turn, and all merge them in the order of the processes
        by the pairwise formula. One matrix of one other process is in memory at a time.
        """
        if not self.several:
            return site
        merged: SiteStatistics | None = None
        for source in range(self.count):
            received = self._receive(site, source)
            if received.moments.count:
                merged = received if merged is None else merged.merge(received)
        return site if merged is None else merged

    def _receive(self, site: SiteStatistics, source: int) -> SiteStatistics:
        halves = site.halves or ()
        received = tuple(self._receive_moments(half, source) for half in halves)
        metric = None if site.metric is None else self._receive_tensor(site.metric, source)
        moments = self._receive_moments(site.moments, source)
        weighted = None if site.weighted is None else self._receive_moments(site.weighted, source)
        both = (received[0], received[1]) if received else None
        return SiteStatistics(site.name, site.index, moments, metric, both, weighted)

    def _receive_moments(self, moments: Moments, source: int) -> Moments:
        count = self._receive_tensor(torch.tensor([moments.count], dtype=torch.int64), source)
        comoment = None if moments.comoment is None else self._receive_tensor(moments.comoment, source)
        mean, m2 = (self._receive_tensor(tensor, source) for tensor in (moments.mean, moments.m2))
        return Moments(int(count), mean, m2, comoment)

    def _receive_tensor(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        sent = tensor.detach().to(self.device, copy=True).contiguous()
        received: torch.Tensor = broadcast(sent, from_process=source)
        return received.to("cpu")
