"""Processes started by a launcher such as ``accelerate launch``."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def launched_state() -> PartialState:
    """Return Accelerate's state of the processes that a launcher started, also on CPUs.

    Without these arguments, ``PartialState`` treats processes without an accelerator as single ones, ignoring
    the launcher, and unlike ``Accelerator`` it does not read ``ACCELERATE_USE_CPU``.
    """
    accelerator: Any = getattr(torch, "accelerator", torch.cuda)
    without = is_launched() and not accelerator.is_available()
    return PartialState(cpu=without or parse_flag_from_env("ACCELERATE_USE_CPU"))


def is_launched() -> bool:
    """Return whether a launcher started this process, without creating a state of Accelerate."""
    names = ("LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return torch.distributed.is_initialized() or any(name in os.environ for name in names)


def is_main_process() -> bool:
    """Return whether this process writes files and prints, among those that a launcher started."""
    return bool(launched_state().is_main_process)
