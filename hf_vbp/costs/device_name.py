"""The name of the processor or accelerator that a latency was measured on."""

import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import torch

CPU_INFORMATION = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Return the name of a device, such as ``NVIDIA H100 80GB HBM3`` or ``AMD EPYC 7763 64-Core Processor``.

    Args:
        device: The device. All devices except CUDA are named by their processor.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return processor_name()


@lru_cache(maxsize=1)
def processor_name() -> str:
    """Return the name of the processor: from /proc/cpuinfo, from sysctl on macOS, from the platform elsewhere."""
    return _from_linux() or _from_macos() or platform.processor() or platform.machine() or "unknown processor"


def _from_linux() -> str:
    try:
        lines = CPU_INFORMATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    # "model name" on x86; some ARM kernels write "Hardware" or "Model" instead.
    known: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        known.setdefault(key.strip(), value.strip())
    return next((known[key] for key in ("model name", "Hardware", "Model") if known.get(key)), "")


def _from_macos() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
