"""The tensors of a file of statistics, each checked when it is read."""

from __future__ import annotations

from pathlib import Path

import torch

from hf_vbp.errors import StatisticsError
from hf_vbp.statistics.moments import Moments

# Up to here float64 holds whole numbers exactly.
MAX_COUNT = 2**53
# Allowed excess of a co-moment over the bound of Cauchy and Schwarz, from the rounding of float32 products.
ROUNDING = 1e-3


class CheckedTensors:
    """Reads tensors by name; each must have the expected dtype and shape and be consistent with the others.

    Args:
        path: The file, for messages.
        tensors: All tensors of the file by name; those that are read are removed.
        values: Whether to check the values too, for which all of them are read from the disk.
    """

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor], *, values: bool = True) -> None:
        self.path, self._tensors, self._values = path, tensors, values

    def error(self, message: str) -> StatisticsError:
        """Return the error to raise for content that is not consistent."""
        return StatisticsError(f"{self.path}: {message}. Gather the statistics again.")

    def holds(self, prefix: str) -> bool:
        """Return whether the name of an unread tensor begins with ``prefix``."""
        return any(name.startswith(prefix) for name in self._tensors)

    def take(
        self,
        name: str,
        shape: tuple[int | None, ...],
        dtype: torch.dtype = torch.float64,
        *,
        minimum: float | None = None,
    ) -> torch.Tensor:
        """Return a tensor after checking it.

        Args:
            name: Its name.
            shape: Its expected shape; ``None`` for any size.
            dtype: Its expected dtype.
            minimum: Smallest allowed value.

        Raises:
            StatisticsError: It is missing, has another dtype or shape, or holds values that are not allowed.
        """
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            raise self.error(f"the tensor {name} is missing")
        sizes = zip(tensor.shape, shape, strict=False)
        fits = tensor.dim() == len(shape) and all(expected in (None, size) for size, expected in sizes)
        if tensor.dtype != dtype or not fits:
            expected_shape = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.error(
                f"expected {name} of {dtype} and shape ({expected_shape}), got {tensor.dtype} of {tuple(tensor.shape)}"
            )
        if self._values and not bool(torch.isfinite(tensor).all()):
            raise self.error(f"{name} holds NaN or infinity")
        if minimum is not None and bool((tensor < minimum).any()):
            raise self.error(f"{name} holds values below {minimum:g}")
        return tensor

    def moments(self, prefix: str, hidden: int | None, full: bool) -> Moments:
        """Return the moments under ``prefix``.

        Args:
            prefix: Beginning of the names of their tensors.
            hidden: Expected number of neurons; ``None`` for any.
            full: Whether they have co-moments.

        Raises:
            StatisticsError: A tensor is missing or invalid, or they contradict each other.
        """
        count = int(self.take(f"{prefix}.count", (), torch.int64, minimum=1))
        if count > MAX_COUNT:
            raise self.error(f"{prefix}.count is {count}, which is not plausible")
        mean = self.take(f"{prefix}.mean", (hidden,))
        hidden = len(mean)
        m2 = self.take(f"{prefix}.m2", (hidden,), minimum=0)
        comoment = None
        if full:
            comoment = self.take(f"{prefix}.comoment", (hidden, hidden))
            if self._values:
                self._check_comoment(f"{prefix}.comoment", comoment, m2)
        return Moments(count, mean, m2, comoment)

    def metric(self, name: str) -> torch.Tensor:
        """Return an output metric, a symmetric matrix with a diagonal of 0 or more.

        Raises:
            StatisticsError: It is missing or invalid.
        """
        metric = self.take(name, (None, None))
        if metric.shape[0] != metric.shape[1]:
            raise self.error(f"{name} has shape {tuple(metric.shape)}, expected a square matrix")
        if not self._values:
            return metric
        largest = float(metric.abs().max()) if metric.numel() else 0.0
        if bool((metric.diagonal() < 0).any()) or bool(((metric - metric.T).abs() > ROUNDING * largest).any()):
            raise self.error(f"{name} is not symmetric with a diagonal of 0 or more")
        return metric

    def finish(self) -> None:
        """Check that every tensor was read.

        Raises:
            StatisticsError: A tensor was not read.
        """
        if self._tensors:
            raise self.error(f"unexpected tensors: {', '.join(sorted(self._tensors)[:3])}")

    def _check_comoment(self, name: str, comoment: torch.Tensor, m2: torch.Tensor) -> None:
        if not torch.equal(comoment.diagonal(), m2):
            raise self.error(f"the diagonal of {name} differs from the sums of squares")
        if not torch.equal(comoment, comoment.T):
            raise self.error(f"{name} is not symmetric")
        deviations = m2.sqrt()
        bound = torch.outer(deviations, deviations).mul_(1 + ROUNDING)
        if bool((comoment.abs() > bound + ROUNDING * float(m2.max())).any()):
            raise self.error(f"{name} holds correlations beyond 1")
