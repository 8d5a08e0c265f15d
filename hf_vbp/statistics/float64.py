"""Devices without float64: their values are converted on the CPU."""

import torch


def has_float64(device: torch.device) -> bool:
    """Return whether a device computes in float64; MPS does not."""
    return device.type != "mps"


def accumulation_device(device: torch.device) -> torch.device:
    """Return the device of float64 sums: ``device`` unless it has no float64, then the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def to_float64(values: torch.Tensor) -> torch.Tensor:
    """Return values in float64 on the device of the sums; a device without float64 must not convert them itself."""
    return values.to(accumulation_device(values.device)).to(torch.float64)
