"""FSDP on CPUs, for tests: torch shards there over gloo, but accelerate requests it on accelerators only."""

from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def allow_fsdp_on_cpu() -> None:
    """Make accelerate treat each process as one with a GPU, while everything is on the CPU.

    Nothing else is changed: sharding, communication, saving and restoring are those of torch and accelerate.
    """
    initialize = PartialState.__init__

    def pretend(self: Any, cpu: bool = False, **options: Any) -> None:
        fresh = not PartialState._shared_state
        initialize(self, cpu=cpu, **options)
        if fresh:
            self.distributed_type = DistributedType.MULTI_GPU
            self.device = torch.device("cpu")

    PartialState.__init__ = pretend  # type: ignore[method-assign]
