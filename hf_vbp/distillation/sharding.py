"""Refuse launches under FSDP that do not work, before anything is loaded."""

import os
from typing import Any

from accelerate.utils import DistributedType
from transformers.training_args import ParallelMode

from hf_vbp.errors import ConfigurationError

_TRUE = ("1", "true", "yes", "y", "on", "t")


def check_launch(args: Any) -> None:
    """Refuse a launch under FSDP that would silently train another model than requested.

    Args:
        args: The settings of the run, which contain the processes.

    Raises:
        ConfigurationError: FSDP is requested on CPUs, or with incompatible settings.
    """
    on_xla = bool(args.fsdp) and bool((args.fsdp_config or {}).get("xla"))
    if args.fsdp and not on_xla and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ConfigurationError(
            "fsdp is set, but this is a single process, expected several that share the model. Start it with "
            "`accelerate launch` or `torchrun`, or leave fsdp out."
        )
    if not (args.fsdp or _is_set("ACCELERATE_USE_FSDP")) or args.world_size == 1:
        return
    if args.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        raise ConfigurationError(
            "FSDP is requested, but accelerate shards models on accelerators only; on CPUs every process would hold "
            "the whole model, as without FSDP. Launch with a configuration without FSDP."
        )
    if _is_set("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        # transformers then reads weights in the first process only. FSDP distributes those of the student, but not
        # those of the teacher, which is not sharded: the other processes would use uninitialized memory.
        raise ConfigurationError(
            "fsdp_cpu_ram_efficient_loading is on, which leaves the teacher without weights in all processes except "
            "the first. Set it to false in the configuration of accelerate."
        )
    if args.auto_find_batch_size:
        raise ConfigurationError(
            "auto_find_batch_size does not work with FSDP: the weights that a second attempt starts from are sharded "
            "among the processes. Set it to false, and per_device_train_batch_size lower."
        )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _TRUE
