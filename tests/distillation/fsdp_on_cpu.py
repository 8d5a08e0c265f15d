"""FSDP on CPUs, for tests: torch shards there over gloo, but accelerate asks for it on accelerators only."""

from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def allow_fsdp_on_cpu() -> None:
    """Let accelerate take the processes for ones with a GPU each, while everything stays on the CPU.

    This is all that is pretended: sharding, communication, saving and restoring are those of torch and accelerate.
    """
    initialise = PartialState.__init__

    def pretend(self: Any, cpu: bool = False, **options: Any) -> None:
        fresh = not PartialState._shared_state
        initialise(self, cpu=cpu, **options)
        if fresh:
            self.distributed_type = DistributedType.MULTI_GPU
            self.device = torch.device("cpu")

    PartialState.__init__ = pretend  # type: ignore[method-assign]
