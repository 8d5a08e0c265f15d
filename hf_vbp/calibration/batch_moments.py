"""Moments of the rows of one batch: float32 arithmetic on centred values, float64 results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from hf_vbp.calibration.packed_symmetric import LowerHalf

# Rows that the shift is estimated from; a shift within a few standard deviations is all that is needed.
SHIFT_ROWS = 32
# A batch whose shift missed a mean by more than this many squared standard deviations is done again.
MAX_MISS = 8.0
# A chunk and the two sums it is added to stay together in a second-level cache of 2 MiB.
CHUNK_BYTES = 512 * 1024
# Chunks whose sums are added up in float32 before they go to float64.
GROUP = 32
# Rows that are taken at once: the most that one float32 product sums over, and the most that is copied.
MAX_ROWS = 4096
# Floats of a cache line. Rows of 1,024 neurons or a multiple lie whole pages apart and fight for the same few sets of
# the cache; a product of rows that lie a line more apart is 5 % faster.
PADDING = 16


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """Moments of ``count`` rows.

    Attributes:
        count: Number of rows.
        mean: ``(hidden,)`` float64.
        m2: ``(hidden,)`` float64, about ``mean``.
        shift: ``(hidden,)`` float64, what the rows were centred by before their products were taken.
        sound: ``()`` bool, whether everything is finite.
    """

    count: int
    mean: torch.Tensor
    m2: torch.Tensor
    shift: torch.Tensor
    sound: torch.Tensor


class Workspace:
    """Scratch memory that all sites share, so that no batch pays for fresh pages."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(
        self, name: str, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return uninitialised memory of ``shape``; what was taken under ``name`` is given up."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.device != device:
            buffer = self._buffers[name] = torch.empty(size, dtype=dtype, device=device)
        return buffer[:size].view(shape)

    def take_rows(self, count: int, hidden: int, device: torch.device) -> torch.Tensor:
        """Return :meth:`take` of ``"rows"``, ``(count, LowerHalf.width)`` float32, 0 behind ``hidden``."""
        width = LowerHalf.of(hidden).width
        rows = self.take("rows", (count, width + PADDING), device)[:, :width]
        if width > hidden:
            rows[:, hidden:] = 0
        return rows


# Takes ``(rows, hidden)`` values, centred by the shift, perhaps with columns of 0 behind them; adds up their products.
AddProducts = Callable[[torch.Tensor], None]


def batch_moments(rows: torch.Tensor, workspace: Workspace, add_products: AddProducts | None = None) -> BatchMoments:
    """Return mean and centred second moments of ``rows``, and hand the centred rows to ``add_products``.

    The rows are shifted by an estimate of their mean first (exact by Sterbenz' lemma where values lie close to
    it), so that squares are of the size of the variance and not of the mean. Float32 sums run over about a
    hundred terms, everything above is float64. The relative error of ``m2`` is a few ``2**-24``, times at most
    ``1 + MAX_MISS`` where the estimate was poor, whatever mean / standard deviation; a batch whose estimate was
    poorer is done again with a better one, and in float64 if that does not help. Constant columns give exactly
    0. On a GPU the shift is the mean itself and nothing waits for the device.

    Args:
        rows: ``(count, hidden)``, any floating dtype, at most ``MAX_ROWS``.
        workspace: Scratch memory.
        add_products: Called once with ``(count, hidden)`` float32 or float64, the rows less the ``shift`` that is
            returned, and columns of 0 behind them; they are overwritten afterwards.
    """
    if rows.device.type != "cpu":
        return _device_moments(rows, add_products)
    count = len(rows)
    keep = add_products is not None
    shift = rows[_spread(count)].double().mean(0).float()
    for _ in range(2):
        totals, squares = _shifted_sums(rows, shift, workspace, keep)
        miss = totals / count
        missed = totals * miss
        m2 = (squares - missed).clamp_(min=0)
        # Comparisons are false for NaN, so one test finds what is not finite and what was badly centred.
        if bool(((missed <= MAX_MISS * m2) & (m2 < math.inf)).all()):
            break
        shift = (shift + miss).float()
    else:
        return _float64_moments(rows, add_products)
    if add_products is not None:
        add_products(workspace.take_rows(count, rows.shape[1], rows.device))
    shift64 = shift.double()
    return BatchMoments(count, shift64 + miss, m2, shift64, torch.tensor(True))


def weighted_moments(
    rows: torch.Tensor, weights: torch.Tensor, workspace: Workspace, add_products: AddProducts | None
) -> BatchMoments:
    """Return mean and centred second moments of rows that count unequally, and hand the scaled rows on.

    Rows are centred by their plain mean and scaled by the root of their weight, so that products of what is handed
    on are weighted. For least squares only: constant columns come out as constant up to float32 rounding.

    Args:
        rows: ``(count, hidden)``, any floating dtype, at most ``MAX_ROWS``.
        weights: ``(count,)`` float32, 0 or more, about 1 in the mean.
        workspace: Scratch memory.
        add_products: Called once with ``(count, hidden)`` float32 and columns of 0 behind them, overwritten later.

    Returns:
        The moments, with the number of rows for a count.
    """
    count = len(rows)
    wide = torch.float64 if rows.device.type != "mps" else torch.float32
    shift, roots = rows.mean(0, dtype=torch.float32), weights.sqrt()
    hidden = rows.shape[1]
    padded = workspace.take_rows(count, hidden, rows.device)
    scaled = torch.sub(rows, shift, out=padded[:, :hidden]).mul_(roots[:, None])
    if add_products is not None:
        add_products(padded)
    total = weights.sum(dtype=wide)
    miss = (roots @ scaled).to(wide) / total
    m2 = scaled.square_().sum(0).to(wide) - miss.square() * total
    shift = shift.to(wide)
    return BatchMoments(count, shift + miss, m2.clamp_(min=0), shift, m2.isfinite().all())


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Take products in float32, whatever the caller allows his own (TF32, bfloat16, autocast)."""
    backends: Any = torch.backends
    backend: Any = backends.cuda.matmul if device.type == "cuda" else getattr(backends.mkldnn, "matmul", None)
    restore: Callable[[], None]
    if hasattr(backend, "fp32_precision"):
        before = backend.fp32_precision
        backend.fp32_precision = "ieee"

        def restore() -> None:
            backend.fp32_precision = before

    else:
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")

        def restore() -> None:
            torch.set_float32_matmul_precision(legacy)

    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        restore()


@lru_cache(maxsize=64)
def _spread(count: int) -> torch.Tensor:
    """Return the rows to estimate a shift from, spread by the golden ratio.

    Evenly spaced ones could all be the class token, whose activations are nothing like the others.
    """
    fractions = torch.arange(min(SHIFT_ROWS, count), dtype=torch.float64).mul_(0.6180339887498949).frac_()
    return fractions.mul_(count).long()


def _shifted_sums(
    rows: torch.Tensor, shift: torch.Tensor, workspace: Workspace, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of ``rows - shift`` and of its squares, ``(hidden,)`` float64 each, in one read of ``rows``.

    With ``keep``, the shifted rows themselves stay in the scratch memory for rows; otherwise each chunk of them
    overwrites the one before, in the cache.
    """
    hidden = rows.shape[1]
    size = min(len(rows), max(1, CHUNK_BYTES // (4 * hidden)))
    sums = workspace.take("sums", (2, size, hidden), rows.device)
    parts = torch.split(rows, size)
    if keep:
        places = torch.split(workspace.take_rows(len(rows), hidden, rows.device)[:, :hidden], size)
    else:
        places = (workspace.take("chunk", (size, hidden), rows.device),) * len(parts)
    linear, square = sums
    result = torch.zeros(2, hidden, dtype=torch.float64)
    for number, (part, place) in enumerate(zip(parts, places, strict=True)):
        if number % GROUP == 0:
            sums.zero_()
        length = len(part)
        if length < size:
            place, linear, square = place[:length], linear[:length], square[:length]
        centred = torch.sub(part, shift, out=place)
        linear += centred
        square.addcmul_(centred, centred)
        if number % GROUP == GROUP - 1 or number == len(parts) - 1:
            result += sums.sum(1)
    return result[0], result[1]


def _device_moments(rows: torch.Tensor, add_products: AddProducts | None) -> BatchMoments:
    shift = rows.mean(0, dtype=torch.float32)
    centred = rows.float() - shift
    wide = torch.float64 if rows.device.type != "mps" else torch.float32
    miss = centred.sum(0).to(wide) / len(rows)
    if add_products is not None:
        add_products(centred)
    m2 = centred.square_().sum(0).to(wide) - miss.square() * len(rows)
    sound = m2.isfinite().all()
    shift = shift.to(wide)
    return BatchMoments(len(rows), shift + miss, m2.clamp_(min=0), shift, sound)


def _float64_moments(rows: torch.Tensor, add_products: AddProducts | None) -> BatchMoments:
    wide = rows.double()
    mean = wide.mean(0)
    centred = wide.sub_(mean)
    rest = centred.mean(0)
    centred -= rest
    if add_products is not None:
        add_products(centred)
    m2 = centred.square_().sum(0)
    return BatchMoments(len(rows), mean + rest, m2, mean + rest, m2.isfinite().all())
