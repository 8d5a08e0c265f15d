"""The dtypes of arithmetic on values of a model; devices without float64, whose values are converted on the CPU."""

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


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that values of ``dtype`` are processed in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
