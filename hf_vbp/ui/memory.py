"""Whether a model fits into memory, before it is downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import ConfigurationError
from hf_vbp.ui.settings import Settings

if TYPE_CHECKING:
    from hf_vbp.adapters.prepared import PreparedModel

_CGROUP = Path("/sys/fs/cgroup")


def memory_needed(prepared: "PreparedModel") -> int:
    """Return the bytes that pruning a model takes: dense and pruned weights, those of the MLPs in float64, statistics.

    Args:
        prepared: The model, also without weights.
    """
    from hf_vbp.calibration.collect import statistics_bytes
    from hf_vbp.config.vbp_config import VBPConfig

    total = sum(tensor.nbytes for tensor in prepared.model.state_dict().values())
    mlps = sum(tensor.numel() for site in prepared.sites for tensor in site.weights().values())
    return int(2 * total + 8 * mlps + statistics_bytes(prepared.sites, VBPConfig().requires))


def available_memory() -> int:
    """Return the bytes that this process may still use, within the limit of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, max(int(limit) - int(used), 0))
    except (OSError, ValueError):
        return free


def weight_files(source: str, token: str | bool | None) -> int:
    """Return the bytes of the weights of a model on the Hub.

    Raises:
        HubError: The repository cannot be read.
    """
    from huggingface_hub.hf_api import RepoFile

    from hf_vbp.hub.client import make_api
    from hf_vbp.hub.failures import FAILURES, hub_error

    try:
        entries = [one for one in make_api(token).list_repo_tree(source) if isinstance(one, RepoFile)]
    except FAILURES as error:
        raise hub_error(error, "Reading the size of the weights", source) from error
    sizes = [{one.path: one.size for one in entries if one.path.endswith(end)} for end in (".safetensors", ".bin")]
    return sum((sizes[0] or sizes[1]).values())


def check_memory(inspected: dict[str, Any], settings: Settings, command: str) -> None:
    """Refuse a model that does not fit into memory.

    Args:
        inspected: Result of :func:`hf_vbp.ui.inspector.inspect_by_name`.
        settings: The limit, where one is set.
        command: The line that runs it as a Job.

    Raises:
        ConfigurationError: It does not fit; names the Job.
    """
    free = available_memory() if settings.memory is None else settings.memory
    needed = max(int(inspected["memory"]), int(inspected["download"]))
    if needed > free:
        raise ConfigurationError(
            f"{inspected['model']} needs about {needed / 1e9:.2f} GB of memory with its statistics, and only "
            f"{free / 1e9:.2f} GB are free here, so nothing was downloaded. Run it as a Job of your account: {command}"
        )
